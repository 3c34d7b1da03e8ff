// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_states.cuh"

namespace ssm::cuda::device {

template <class T>
struct ForwardLaunch {
  DiagonalScan<T> call;
  const char* workspace;
  int sequences;
  int warps_per_sequence;  // 1, 2 or 4
  unsigned zero;           // set_words
};

/// Shared memory of a block: toeplitz and lower (first terms of bf16 data), lift (all terms),
/// table, carries, totals, and for bf16 data without an input gate a tile of each warp on its way
/// from memory.
template <class T, bool GatedIn>
struct ForwardShared {
  static constexpr int output_words = operand_terms<T> * kFragmentWords,
                       lift_words = matrix_terms<T> * kFragmentWords;
  static constexpr bool ahead = operand_terms<T> == 1 && !GatedIn;
  static constexpr int ahead_words = ahead ? kWarps * 4 * row_tiles<T> * 32 : 0;
  static constexpr std::size_t bytes = (2 * output_words + lift_words + ahead_words) * 16 +
                                       ChannelLayout<T>::table_bytes +
                                       (kWarps * kModes + 4 * kWarps * 8) * sizeof(float2);
};

/// One block walks sequences blockIdx.y, blockIdx.y + gridDim.y, … of channel blockIdx.x.
/// GatedIn, GatedOut: those gates may be there. Output false: states only. States false: neither
/// final state nor checkpoints. Chained false: one warp a sequence, and registers enough rather
/// than a fourth block at once.
template <class T, bool GatedIn, bool GatedOut, bool Output, bool States, bool Chained>
__global__ void __launch_bounds__(kThreads, operand_terms<T> == 1 ? (Chained ? 4 : 3) : 2)
    scan_forward(const ForwardLaunch<T> launch) {
  constexpr int terms = operand_terms<T>, rows = row_tiles<T>, R = 2 * rows;
  using Layout = ChannelLayout<T>;
  using Shared = ForwardShared<T, GatedIn>;
  extern __shared__ uint4 shared[];
  uint4* const lift_words = shared + 2 * Shared::output_words;
  uint4* const ahead = lift_words + Shared::lift_words;
  float2* const table = reinterpret_cast<float2*>(ahead + Shared::ahead_words);
  float2* const carries = table + kTableRows * kTablePitch;
  const DiagonalScan<T>& call = launch.call;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
            q = lane % 4;
  const char* const base = launch.workspace + channel * Layout::bytes;
  stage(shared, base + kToeplitz * Layout::matrix_bytes, Shared::output_words * 16);
  stage(shared + Shared::output_words, base + kLower * Layout::matrix_bytes,
        Shared::output_words * 16);
  stage(lift_words, base + kLift * Layout::matrix_bytes, Shared::lift_words * 16);
  stage(reinterpret_cast<uint4*>(table), base + Layout::table_at, Layout::table_bytes);
  const Packed toeplitz{shared, shared + kFragmentWords};
  const Packed lower{shared + Shared::output_words, shared + Shared::output_words + kFragmentWords};
  const Packed lift{lift_words, lift_words + kFragmentWords};
  wait_for_copies();
  __syncthreads();

  const int share = Chained ? launch.warps_per_sequence : 1, side = kWarps / share;
  const Chain chain{carries + warp * kModes, carries + kWarps * kModes + (warp / share) * share * 8,
                    table, share, warp % share};
  const int sequences = launch.sequences;
  const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
  uint4* const mine = ahead + warp * 4 * rows * 32 + lane;
  // Each lane copies just what it will read: no barrier between the copy and its use.
  const auto fetch = [&](int sequence, int tile) {
    const Range range = sequence_range<tile_positions<T>>(call.shape, sequence);
    const T* const x =
        at(call.x, range, channel) + static_cast<long long>(tile) * tile_positions<T>;
    if (range.length - static_cast<long long>(tile) * tile_positions<T> < tile_positions<T> ||
        !is_aligned(x))
      return false;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int v = 0; v < 2; ++v) copy_async(mine + (2 * r + v) * 32, x + run_position<rows>(r, v));
    return true;
  };
  bool fetched = false;  // the tile that comes next
  if constexpr (Shared::ahead) fetched = fetch(blockIdx.y * side + warp / share, chain.rank);
  for (int first = blockIdx.y * side; first < sequences; first += gridDim.y * side) {
    const int s = first + warp / share;
    const Range range = sequence_range<tile_positions<T>>(call.shape, s);
    const long long state_at =
        (static_cast<long long>(s) * call.shape.channels + channel) * call.shape.modes + lane;
    float2 start{0.f, 0.f};
    if (call.initial_state != nullptr && range.length > 0 && lane < call.shape.modes)
      start = {call.initial_state[state_at].re, call.initial_state[state_at].im};
    chain.carry[lane] = start;
    __syncwarp();
    const auto aligned = [&](const auto& tensor) { return is_aligned(at(tensor, range, channel)); };
    const bool vector = aligned(call.x) && aligned(call.y) && (!GatedIn || aligned(call.gate_in)) &&
                        (!GatedOut || aligned(call.gate_out));
    const bool has_gate_in = GatedIn && call.gate_in.data != nullptr,
               has_gate_out = GatedOut && call.gate_out.data != nullptr;
    const int common = call.shape.segments != nullptr ? range.length : call.shape.length;
    const int tiles = (common + tile_positions<T> - 1) / tile_positions<T>;
    const int last_chunk = (range.length - 1) / kChunk;

    for (int tile = chain.rank; tile - chain.rank < tiles; tile += share) {
      const long long offset = static_cast<long long>(tile) * tile_positions<T>;
      const int left = static_cast<int>(max(range.length - offset, 0ll));
      const bool full = vector && left >= tile_positions<T>;
      const auto here = [&](const auto& tensor) { return at(tensor, range, channel, offset); };
      LeftFragmentsOf<T> u, state;
      const bool loaded = fetched;
      if constexpr (Shared::ahead) {
        wait_for_copies();
        if (loaded) {
#pragma unroll
          for (int r = 0; r < R; ++r)
#pragma unroll
            for (int v = 0; v < 2; ++v) set_words<T>(u, r, v, mine[(2 * r + v) * 32], launch.zero);
        }
        const bool more = tile + share - chain.rank < tiles;
        fetched = fetch(more ? s : s + static_cast<int>(gridDim.y) * side,
                        more ? tile + share : chain.rank);
      }
      if (!loaded)
        load_tile<T, GatedIn>(u, here(call.x), GatedIn ? here(call.gate_in) : nullptr, left, full,
                              launch.zero);
      [[maybe_unused]] Complex<float>* checkpoint = nullptr;
      [[maybe_unused]] Complex<float>* final_state = nullptr;
      [[maybe_unused]] int last_row = -1;
      if constexpr (States) {
        if (call.checkpoints != nullptr && g == 0 && left > 0)
          checkpoint = call.checkpoints +
                       ((range.checkpoint + tile) * call.shape.channels + channel) * kModes;
        final_state = call.final_state + (state_at - lane);
        if (call.final_state != nullptr && left > 0)
          last_row = last_chunk - tile * (16 * rows) - g * R;
      }
      pass_states<T, false, Chained, 4>(
          u, lift, chain, [](int, int, float2&) {},
          [&](int tile_of_states, const float2(&before)[R]) {
            if constexpr (States) {
              const int mode = 4 * tile_of_states + q;
              if (checkpoint != nullptr) checkpoint[mode] = {before[0].x, before[0].y};
#pragma unroll
              for (int r = 0; r < R; ++r)
                if (r == last_row && mode < call.shape.modes)
                  final_state[mode] = {before[r].x, before[r].y};
            }
            set_states(state, tile_of_states, before);
          });
      __syncwarp();
      if (left == 0) continue;
      if constexpr (Output) {
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          float sum[rows][4][4] = {};
          multiply_half<terms, -1, 0>(sum, v, u, toeplitz, state, lower);
          Runs<T> input, gate, factor;
          // Not the operand: rounding the product of x and its gate must not reach the skip term.
          const bool reread = has_gate_in && skip != 0.f;
          if (reread)
            input.load(here(call.x), v, left, full), gate.load(here(call.gate_in), v, left, full);
          if (has_gate_out) factor.load(here(call.gate_out), v, left, full);
          T* const y = here(call.y);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int position = run_position<rows>(r, v);
            float value[8], out[8];
            if (reread) {
              widen<T>(input.raw[r], value);
              gate.multiply_into(value, r);
            } else {
              get_run<terms, rows>(u, r / 2, r % 2, v, value);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
              out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2] + skip * value[i];
            if (has_gate_out) factor.multiply_into(out, r);
            store_eight(y + position, left - position, full, out);
          }
        }
      }
    }
    __syncwarp();
  }
}

/// Carries the state before the last chunk, as scan_forward left it, over the chunk's positions.
/// One warp a sequence and channel; at most 64 dependent steps.
template <class T>
__global__ void __launch_bounds__(kThreads) finish_state(const ForwardLaunch<T> launch) {
  using Layout = ChannelLayout<T>;
  const DiagonalScan<T>& call = launch.call;
  const int channel = blockIdx.x, s = blockIdx.y * kWarps + threadIdx.x / 32,
            mode = threadIdx.x % 32;
  if (s >= launch.sequences || mode >= call.shape.modes) return;
  const Range range = sequence_range<tile_positions<T>>(call.shape, s);
  const float2* const table = reinterpret_cast<const float2*>(
      launch.workspace + channel * Layout::bytes + Layout::table_at);
  const long long index =
      (static_cast<long long>(s) * call.shape.channels + channel) * call.shape.modes + mode;
  if (range.length == 0) {
    call.final_state[index] =
        call.initial_state != nullptr ? call.initial_state[index] : Complex<float>{0.f, 0.f};
    return;
  }
  const float2 a = table[kOne * kTablePitch + mode], b = table[kInput * kTablePitch + mode];
  const T* const x = at(call.x, range, channel);
  const T* const gate = at(call.gate_in, range, channel);
  float2 state{call.final_state[index].re, call.final_state[index].im};
  for (int i = (range.length - 1) / kChunk * kChunk; i < range.length; ++i) {
    const float u = to_float(x[i]) * (gate != nullptr ? to_float(gate[i]) : 1.f);
    state = multiply_add(a, state, {b.x * u, b.y * u});
  }
  call.final_state[index] = {state.x, state.y};
}

}  // namespace ssm::cuda::device
