// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/gated_input.cuh"
#include "scan/diagonal_scan_states.cuh"
#include "scan/diagonal_scan_sums.cuh"

namespace ssm::cuda::device {

/// Stores run `v` of row `r` of this lane, one term, in shared memory.
template <class T>
__device__ inline void store_run(uint4* tiles, int which, int r, int v, int term, uint4 words) {
  using S = BackwardShared<T>;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const int row = warp * 16 * row_tiles<T> + stored_row(g, r);
  tiles[(which * operand_terms<T> + term) * S::tile + row * 8 + stored_vector(row, 4 * v + q)] =
      words;
}

/// Writes the products of run `v` of two tiles.
template <class T>
__device__ inline void store_product(T* to, const Runs<T>& a, const Runs<T>& b, int v, int left,
                                     bool full) {
#pragma unroll
  for (int r = 0; r < 2 * row_tiles<T>; ++r) {
    const int position = run_position<row_tiles<T>>(r, v);
    if (operand_terms<T> == 1 && full) {
      *reinterpret_cast<uint4*>(to + position) = multiply_words(a.raw[r][0], b.raw[r][0]);
    } else {
      float value[8];
      widen<T>(a.raw[r], value);
      b.multiply_into(value, r);
      store_eight(to + position, left - position, full, value);
    }
  }
}

/// How inputs come: without a gate, beside one, or gated already, beside the gate
/// (gated_input.cuh).
enum class Inputs { plain, gated, pregated };

/// The adjoint walk of channel blockIdx.x over sequences blockIdx.y, blockIdx.y + gridDim.y, …
template <class T, Inputs In, bool GatedOut, bool Chained>
__global__ void __launch_bounds__(backward_threads<T>, 1)
    scan_backward(const BackwardLaunch<T> launch) {
  constexpr bool GatedIn = In != Inputs::plain;
  constexpr int terms = operand_terms<T>, rows = row_tiles<T>, R = 2 * rows;
  using Layout = ChannelLayout<T>;
  using Shared = BackwardShared<T>;
  extern __shared__ uint4 shared[];
  uint4* const tiles = shared + Shared::matrices;
  uint4* const raw = tiles + Shared::tiles + threadIdx.x / 32 * Shared::raw + threadIdx.x % 32;
  float2* const table =
      reinterpret_cast<float2*>(tiles + Shared::tiles + Shared::warps * Shared::raw);
  float2* const carries = table + kTableRows * kTablePitch;
  const DiagonalScanBackward<T>& call = launch.call;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
            q = lane % 4;
  const char* const base = launch.workspace + channel * Layout::bytes;
  uint4* next = shared;
  const auto staged = [&](int which, int words) {
    uint4* const to = next;
    stage(to, base + which * Layout::matrix_bytes, words * 16);
    next += words;
    return Packed{to, to + kFragmentWords};
  };
  const Packed lift = staged(kLift, Shared::scan_matrix),
               raise = staged(kRaise, Shared::scan_matrix),
               correlate = staged(kBackward, Shared::matrix),
               spread = staged(kSpread, Shared::matrix);
  stage(reinterpret_cast<uint4*>(table), base + Layout::table_at, Layout::table_bytes);
  wait_for_copies();
  __syncthreads();

  const int share = Chained ? launch.warps_per_sequence : 1, side = Shared::warps / share;
  const Chain walk{carries + warp * kModes,
                   carries + 2 * Shared::warps * kModes + warp / kWarps * (4 * kWarps * 8) +
                       (warp % kWarps / share) * share * 8,
                   table, share, share - 1 - warp % share};
  const Chain again{carries + (Shared::warps + warp) * kModes, nullptr, table, 1, 0};
  const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
  const auto mine = [&](int which) {
    return tiles + which * terms * Shared::tile + warp * 16 * rows * 8;
  };
  ChunkSums<T> sums{};
  constexpr bool flushed = terms == 3;
  constexpr int pieces = sizeof(ChunkSums<T>) / 16;
  float4* const kept =
      launch.kept_sums +
      (static_cast<long long>(channel) * gridDim.y + blockIdx.y) * pieces * backward_threads<T>;
  if constexpr (flushed)
    for (int i = 0; i < pieces; ++i)
      kept[i * backward_threads<T> + threadIdx.x] = {0.f, 0.f, 0.f, 0.f};
  const bool has_gate_in = GatedIn && call.gate_in.data != nullptr,
             has_gate_out = GatedOut && call.gate_out.data != nullptr;
  // Otherwise the output gate's gradient is not wanted or already there.
  const bool has_ungated =
      has_gate_out && call.ungated.data != nullptr && call.dgate_out.data != nullptr;
  // The tile that the block's walk over sequences `first`, … starts from.
  const auto last_tile = [&](int first) {
    int length = call.shape.length;
    if (call.shape.segments != nullptr) {
      length = 0;
      for (int i = 0; i < side; ++i)
        length = max(length, sequence_range<tile_positions<T>>(call.shape, first + i).length);
    }
    const int tiles = (length + tile_positions<T> - 1) / tile_positions<T>;
    return (tiles + share - 1) / share * share - share;
  };
  // Inputs stay in registers through a tile: they come while sums over the tile before are made.
  Runs<T> input[2], gate[2];
  const auto bring = [&](int sequence, int tile) {
    const Range range = sequence_range<tile_positions<T>>(call.shape, sequence);
    const long long offset = static_cast<long long>(tile) * tile_positions<T>;
    // Where no sequence of the block has a position, the tile is before the first one.
    const int left = tile < 0 ? 0 : static_cast<int>(max(range.length - offset, 0ll));
    const T* const x = at(call.x, range, channel, offset);
    const T* const factor = GatedIn ? at(call.gate_in, range, channel, offset) : nullptr;
    const bool full = left >= tile_positions<T> && is_aligned(x) && is_aligned(factor);
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      input[v].load(x, v, left, full);
      if (has_gate_in) gate[v].load(factor, v, left, full);
    }
  };
  int at_tile = last_tile(blockIdx.y * side);
  bring(blockIdx.y * side + warp / share, at_tile + warp % share);
  for (int first = blockIdx.y * side; first < launch.sequences; first += gridDim.y * side) {
    const int s = first + warp / share;
    const Range range = sequence_range<tile_positions<T>>(call.shape, s);
    const long long item = static_cast<long long>(s) * call.shape.channels + channel;
    walk.carry[lane] = {0.f, 0.f};
    __syncwarp();
    const auto aligned = [&](const auto& tensor) { return is_aligned(at(tensor, range, channel)); };
    const bool vector =
        aligned(call.dy) && aligned(call.dx) && (!GatedIn || aligned(call.dgate_in)) &&
        (!GatedOut || (aligned(call.gate_out) && aligned(call.dgate_out) && aligned(call.ungated)));
    const int last_chunk = (range.length - 1) / kChunk;
    const bool tail = launch.tail_state != nullptr && range.length > 0;
    const int next_first = first + static_cast<int>(gridDim.y) * side;
    const int after = next_first < launch.sequences ? last_tile(next_first) : 0;

    if (at_tile < 0) bring(s + static_cast<int>(gridDim.y) * side, after + warp % share);
    for (; at_tile >= 0; at_tile -= share) {
      const int tile = at_tile + warp % share;
      const long long offset = static_cast<long long>(tile) * tile_positions<T>;
      const int left = static_cast<int>(max(range.length - offset, 0ll));
      const bool full = vector && left >= tile_positions<T>;
      const auto here = [&](const auto& tensor) { return at(tensor, range, channel, offset); };
      [[maybe_unused]] bool divisible = true;  // by the tile's gates
      float2 start{0.f, 0.f};
      if (left > 0) {
        const Complex<float> c =
            launch
                .checkpoints[((range.checkpoint + tile) * call.shape.channels + channel) * kModes +
                             lane];
        start = {c.re, c.im};
      }
      if (left >= tile_positions<T>) {
        // What the adjoint walk needs of this tile: one line a lane.
        constexpr int line = tile_positions<T> / 32;
        for (int i = lane * line; i < (lane + 1) * line; i += static_cast<int>(128 / sizeof(T))) {
          prefetch(here(call.dy) + i);
          if (has_gate_out) prefetch(here(call.gate_out) + i);
          if (has_ungated) prefetch(here(call.ungated) + i);
        }
      }
      {
        LeftFragmentsOf<T> u;
        if (has_gate_in)
#pragma unroll
          for (int i = 0; i < 2 * R; ++i)
#pragma unroll
            for (int k = 0; k < Shared::pieces; ++k)
              raw[(i * Shared::pieces + k) * 32] = input[i % 2].raw[i / 2][k];
        if constexpr (In == Inputs::pregated) {
          SmallestGate smallest;
#pragma unroll
          for (int i = 0; i < 2 * R; ++i) smallest.add(gate[i % 2].raw[i / 2][0]);
          divisible = __all_sync(~0u, smallest.is_divisor());
          if (!divisible)
#pragma unroll
            for (int i = 0; i < 2 * R; ++i) {
              uint4& gated = input[i % 2].raw[i / 2][0];
              const uint4 factor = gate[i % 2].raw[i / 2][0];
              gated = select_small(factor, multiply_words(gated, factor), gated);
            }
        }
#pragma unroll
        for (int v = 0; v < 2; ++v)
          set_runs<T>(u, v, input[v], gate[v], has_gate_in && In == Inputs::gated, launch.zero,
                      [&](int r, int v, int t, uint4 words) {
                        store_run<T>(tiles, kInputs, r, v, t, words);
                      });
        again.carry[lane] = start;
        __syncwarp();
        pass_states<T, false, false, 4>(
            u, lift, again, [](int, int, float2&) {},
            [&](int tile_of_states, const float2(&before)[R]) {
              store_states<T>(mine(kStates), Shared::tile, tile_of_states, before);
            });
      }

      LeftFragmentsOf<T> d, adjoint;
      {
        const auto keep = [&](int r, int v, int t, uint4 words) {
          store_run<T>(tiles, kOutputs, r, v, t, words);
        };
        const T* const dy = here(call.dy);
        const T* const gate_out = has_gate_out ? here(call.gate_out) : nullptr;
        const T* const ungated = has_ungated ? here(call.ungated) : nullptr;
        T* const dgate_out = has_ungated ? here(call.dgate_out) : nullptr;
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          Runs<T> output, factor;
          output.load(dy, v, left, full);
          if (has_gate_out) factor.load(gate_out, v, left, full);
          set_runs<T>(d, v, output, factor, has_gate_out, launch.zero, keep);
          if (has_ungated) {
            factor.load(ungated, v, left, full);
            store_product(dgate_out, output, factor, v, left, full);
          }
        }
      }
      pass_states<T, true, Chained, 4>(
          d, raise, walk,
          [&](int tile_of_states, int r, float2& added) {
            if (tail && tile * (16 * rows) + g * R + r == last_chunk) {
              const float2 extra = launch.tail_state[item * kModes + 4 * tile_of_states + q];
              added = {added.x + extra.x, added.y + extra.y};
            }
          },
          [&](int tile_of_states, const float2(&after)[R]) {
            store_states<T>(mine(kAdjoints), Shared::tile, tile_of_states, after);
          });
      __syncwarp();
      load_states<T>(adjoint, mine(kAdjoints), Shared::tile);
      if (left > 0) {
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          float sum[rows][4][4] = {};
          multiply_half<terms, 1, 0>(sum, v, d, correlate, adjoint, spread);
          T* const dx = here(call.dx);
          T* const dgate_in = has_gate_in ? here(call.dgate_in) : nullptr;
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int position = run_position<rows>(r, v);
            float value[8], out[8];
            get_run<terms, rows>(d, r / 2, r % 2, v, value);
#pragma unroll
            for (int i = 0; i < 8; ++i)
              out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2] + skip * value[i];
            if (tail && tile * (16 * rows) + g * R + r == last_chunk) {
              const float* const extra = launch.tail_input + item * kChunk + position % kChunk;
#pragma unroll
              for (int i = 0; i < 8; ++i) out[i] += extra[i];
            }
            if (has_gate_in) {
#pragma unroll
              for (int k = 0; k < Shared::pieces; ++k)
                input[v].raw[r][k] = raw[((2 * r + v) * Shared::pieces + k) * 32];
#pragma unroll
              for (int i = 0; i < 8; ++i) value[i] = out[i];
              if constexpr (In == Inputs::pregated) {
                float gated[8], factor[8];
                widen<T>(input[v].raw[r], gated);
                widen<T>(gate[v].raw[r], factor);
                if (divisible) {
#pragma unroll
                  for (int i = 0; i < 8; ++i) value[i] *= ungate<true>(gated[i], factor[i]);
                } else {
#pragma unroll
                  for (int i = 0; i < 8; ++i) value[i] *= ungate<false>(gated[i], factor[i]);
                }
              } else {
                input[v].multiply_into(value, r);
              }
              store_eight(dgate_in + position, left - position, full, value);
              gate[v].multiply_into(out, r);
            }
            store_eight(dx + position, left - position, full, out);
          }
        }
      }
      const bool more = at_tile >= share;
      bring(more ? s : s + static_cast<int>(gridDim.y) * side,
            (more ? at_tile - share : after) + warp % share);
      __syncthreads();
      add_products<T>(sums, tiles);
      if constexpr (flushed) flush(sums, kept);
      __syncthreads();
    }
    at_tile = after;
    if (call.dinitial_state != nullptr && s < launch.sequences && lane < call.shape.modes) {
      const float2 v = walk.carry[lane];
      Complex<float>* const out = call.dinitial_state + item * call.shape.modes + lane;
      if (range.length > 0) {
        *out = {v.x, v.y};
      } else {
        *out = call.dfinal_state != nullptr ? call.dfinal_state[item * call.shape.modes + lane]
                                            : Complex<float>{0.f, 0.f};
      }
    }
    __syncwarp();
  }
  if constexpr (flushed)
    for (int i = 0; i < pieces; ++i)
      reinterpret_cast<float4*>(&sums)[i] = kept[i * backward_threads<T> + threadIdx.x];
  contract<T>(sums, reinterpret_cast<float*>(tiles), launch);
}

}  // namespace ssm::cuda::device
