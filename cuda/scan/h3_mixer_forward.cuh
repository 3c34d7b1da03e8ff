// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <ssm/backend/cuda/h3_mixer.hpp>

#include "kernel/gated_input.cuh"
#include "scan/diagonal_scan_states.cuh"
#include "scan/shift_convolution.cuh"

namespace ssm::cuda::device {

/// Warps of a block, groups of kWarps. One block a multiprocessor, so that a warp has 168
/// registers.
template <class T>
inline constexpr int mixer_warps = operand_terms<T> == 1 ? 12 : 4;

/// Whether a tape holds v ⊙ shift(k) rather than shift(k): where T is the precision of the
/// products' operands.
template <class T>
inline constexpr bool tapes_gated_input = operand_terms<T> == 1;

template <class T>
struct MixerLaunch {
  DiagonalScanShape shape;
  const float* skip;
  Sequences<const T> k, v, gate;  // of the output
  Sequences<T> y;
  // Of a tape. With tapes_gated_input, shifted is gated by v (gated_input.cuh). ungated may be
  // null.
  Sequences<T> shifted, ungated;
  Complex<float>* checkpoints;
  const char* diagonal_matrices;
  const char* shift_matrices;
  int warps_per_sequence;  // 1, 2 or 4
  unsigned zero;           // set_words
};

/// A warp's tile of k or v as it lies in memory, in shared memory, and the chunk before it. Each
/// lane's runs have slots of their own; those of the last row are four lanes further on, so that a
/// lane finds the row before its first one where the group before it has its last.
template <class T>
struct KeyTile {
  static constexpr int R = 2 * row_tiles<T>, pieces = sizeof(T) / 2, pitch = 36;
  static constexpr int words = 2 * pieces * (32 * (R - 1) + pitch);
  uint4* slots;

  __device__ uint4* slot(int r, int v, int piece) const {
    const int run = (2 * r + v) * pieces + piece, lane = threadIdx.x % 32;
    return slots + 32 * run + lane + (r < R - 1 ? 0 : 4 + 4 * (v * pieces + piece));
  }
  __device__ uint4* slot_before(int v, int piece) const { return slot(R - 1, v, piece) - 4; }

  /// Starts to bring the tile at `k`, of which `left` positions remain, and with Before the chunk
  /// before it: zeros unless `inner`.
  template <bool Before>
  __device__ void fetch(const T* k, int left, bool inner) const {
    const bool full = left >= tile_positions<T> && is_aligned(k);
#pragma unroll
    for (int v = 0; v < 2; ++v) {
#pragma unroll
      for (int r = Before ? -1 : 0; r < R; ++r) {
        if (r < 0 && threadIdx.x % 32 >= 4) continue;
        const int position = run_position<row_tiles<T>>(r, v);
        uint4 raw[pieces] = {};
        const auto to = [&](int piece) {
          return r < 0 ? slot_before(v, piece) : slot(r, v, piece);
        };
        if (full && (r >= 0 || inner)) {
#pragma unroll
          for (int piece = 0; piece < pieces; ++piece)
            copy_async(to(piece), reinterpret_cast<const uint4*>(k + position) + piece);
        } else {
          if (r >= 0 || inner) load_guarded(k + position, left - position, raw);
#pragma unroll
          for (int piece = 0; piece < pieces; ++piece) *to(piece) = raw[piece];
        }
      }
    }
  }

  __device__ void read(Runs<T>& out, int v) const {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int piece = 0; piece < pieces; ++piece) out.raw[r][piece] = *slot(r, v, piece);
  }
  /// Run `v` of row `r` (−1: the row before the lane's first) as row `to` of an operand.
  __device__ void read(LeftFragmentsOf<T>& a, int to, int r, int v, unsigned zero) const {
    uint4 raw[pieces];
#pragma unroll
    for (int piece = 0; piece < pieces; ++piece)
      raw[piece] = r < 0 ? *slot_before(v, piece) : *slot(r, v, piece);
    if constexpr (operand_terms<T> == 1) {
      set_words<T>(a, to, v, raw[0], zero);
    } else {
      float value[8];
      widen<T>(raw, value);
      set_run(a, to, v, value);
    }
  }
};

/// Shared memory of a block: toeplitz, lower, lift and the shift's two matrices; tiles of k, v and
/// states of each warp; table, carries, totals.
template <class T>
struct MixerShared {
  static constexpr int output_words = operand_terms<T> * kFragmentWords,
                       lift_words = matrix_terms<T> * kFragmentWords,
                       shift_words = matrix_terms<T> * kFragmentWords;
  static constexpr int warps = mixer_warps<T>, tile = row_tiles<T> * 16 * 8;  // uint4
  static constexpr int warp_words = 2 * KeyTile<T>::words + operand_terms<T> * tile;
  static constexpr std::size_t bytes =
      (2 * output_words + lift_words + 2 * shift_words + warps * warp_words) * 16 +
      ChannelLayout<T>::table_bytes +
      (warps * kModes + warps / kWarps * 4 * kWarps * 8) * sizeof(float2);
};

/// One block walks batch items blockIdx.y, blockIdx.y + gridDim.y, … of channel blockIdx.x. A tile
/// of k, shifted, times v is the diagonal scan's input and stays in registers. Tape: `shifted` and
/// `checkpoints` are there.
template <class T, bool Tape, bool Chained>
__global__ void __launch_bounds__(32 * mixer_warps<T>, 1)
    mixer_forward(const MixerLaunch<T> launch) {
  constexpr int terms = operand_terms<T>, rows = row_tiles<T>, R = 2 * rows;
  using Layout = ChannelLayout<T>;
  using Shared = MixerShared<T>;
  extern __shared__ uint4 shared[];
  uint4* const lift_words = shared + 2 * Shared::output_words;
  uint4* const here_words = lift_words + Shared::lift_words;
  uint4* const beside_words = here_words + Shared::shift_words;
  uint4* const warp_words =
      beside_words + Shared::shift_words + threadIdx.x / 32 * Shared::warp_words;
  float2* const table = reinterpret_cast<float2*>(beside_words + Shared::shift_words +
                                                  Shared::warps * Shared::warp_words);
  float2* const carries = table + kTableRows * kTablePitch;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
            q = lane % 4;
  const char* const base = launch.diagonal_matrices + channel * Layout::bytes;
  const char* const taps = launch.shift_matrices + channel * kShiftMatrices * shift_matrix_bytes<T>;
  stage(shared, base + kToeplitz * Layout::matrix_bytes, Shared::output_words * 16);
  stage(shared + Shared::output_words, base + kLower * Layout::matrix_bytes,
        Shared::output_words * 16);
  stage(lift_words, base + kLift * Layout::matrix_bytes, Shared::lift_words * 16);
  stage(here_words, taps + kHere * shift_matrix_bytes<T>, Shared::shift_words * 16);
  stage(beside_words, taps + kBeside * shift_matrix_bytes<T>, Shared::shift_words * 16);
  stage(reinterpret_cast<uint4*>(table), base + Layout::table_at, Layout::table_bytes);
  const auto packed = [](const uint4* words) { return Packed{words, words + kFragmentWords}; };
  const Packed toeplitz = packed(shared), lower = packed(shared + Shared::output_words);
  const Packed lift = packed(lift_words), here = packed(here_words), beside = packed(beside_words);
  wait_for_copies();
  __syncthreads();

  const int share = Chained ? launch.warps_per_sequence : 1, side = Shared::warps / share;
  const Chain chain{carries + warp * kModes,
                    carries + Shared::warps * kModes + warp / kWarps * (4 * kWarps * 8) +
                        (warp % kWarps / share) * share * 8,
                    table, share, warp % share};
  const float skip = launch.skip != nullptr ? launch.skip[channel] : 0.f;
  const KeyTile<T> keys{warp_words}, values{warp_words + KeyTile<T>::words};
  uint4* const states = warp_words + 2 * KeyTile<T>::words;
  const auto fetch = [&](int item, int tile) {
    const Range range = sequence_range<tile_positions<T>>(launch.shape, item);
    const long long offset = static_cast<long long>(tile) * tile_positions<T>;
    const int left = static_cast<int>(max(range.length - offset, 0ll));
    keys.template fetch<true>(at(launch.k, range, channel, offset), left, tile > 0 && left > 0);
    values.template fetch<false>(at(launch.v, range, channel, offset), left, false);
  };
  fetch(blockIdx.y * side + warp / share, chain.rank);
  for (int first = blockIdx.y * side; first < launch.shape.batch; first += gridDim.y * side) {
    const int item = first + warp / share;
    if (!Chained && item >= launch.shape.batch) break;
    const Range range = sequence_range<tile_positions<T>>(launch.shape, item);
    chain.carry[lane] = {0.f, 0.f};
    __syncwarp();
    const auto aligned = [&](const auto& tensor) { return is_aligned(at(tensor, range, channel)); };
    const bool vector = aligned(launch.gate) && aligned(launch.y) &&
                        (!Tape || (aligned(launch.shifted) && aligned(launch.ungated)));
    const bool has_ungated = Tape && launch.ungated.data != nullptr;
    const int tiles = (launch.shape.length + tile_positions<T> - 1) / tile_positions<T>;

    for (int tile = chain.rank; tile - chain.rank < tiles; tile += share) {
      const long long offset = static_cast<long long>(tile) * tile_positions<T>;
      const int left = static_cast<int>(max(range.length - offset, 0ll));
      const bool full = vector && left >= tile_positions<T>;
      const auto at_tile = [&](const auto& tensor) { return at(tensor, range, channel, offset); };
      LeftFragmentsOf<T> u, state;
      wait_for_copies();
      __syncwarp();
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        float sum[rows][4][4] = {};
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          LeftFragmentsOf<T> same, previous;
#pragma unroll
          for (int r = -1; r < R; ++r) {
            if (r >= 0 && w <= v) keys.read(same, r, r, w, launch.zero);
            if (r + 1 < R && w >= v) keys.read(previous, r + 1, r, w, launch.zero);
          }
#pragma unroll
          for (int step = 2 * w; step < 2 * w + 2; ++step)
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
              if (w <= v)
                multiply_pair<matrix_terms<T>>(&sum[0][2 * pair], 4, same, step, 2 * v + pair,
                                               here);
              if (w >= v)
                multiply_pair<matrix_terms<T>>(&sum[0][2 * pair], 4, previous, step, 2 * v + pair,
                                               beside);
            }
        }
        Runs<T> factor;
        values.read(factor, v);
        T* const shifted = Tape ? at_tile(launch.shifted) : nullptr;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const int position = run_position<rows>(r, v);
          float value[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) value[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2];
          if constexpr (Tape && !tapes_gated_input<T>)
            store_eight(shifted + position, left - position, full, value);
          [[maybe_unused]] uint4 x;
          if constexpr (Tape && tapes_gated_input<T>)
            x = {pack_bf16(value[0], value[1]), pack_bf16(value[2], value[3]),
                 pack_bf16(value[4], value[5]), pack_bf16(value[6], value[7])};
          factor.multiply_into(value, r);
          set_run(u, r, v, value);
          if constexpr (Tape && tapes_gated_input<T>) {
            SmallestGate smallest;
            smallest.add(factor.raw[r][0]);
            uint4 gated = get_words(u, r, v);
            if (!smallest.is_divisor()) gated = select_small(factor.raw[r][0], x, gated);
            store_words<T>(shifted + position, left - position, full, gated);
          }
        }
      }
      __syncwarp();
      const bool more = tile + share - chain.rank < tiles;
      fetch(more ? item : item + static_cast<int>(gridDim.y) * side,
            more ? tile + share : chain.rank);
      Runs<T> query[2];
#pragma unroll
      for (int v = 0; v < 2; ++v) query[v].load(at_tile(launch.gate), v, left, full);
      [[maybe_unused]] Complex<float>* checkpoint = nullptr;
      if constexpr (Tape) {
        if (g == 0 && left > 0)
          checkpoint = launch.checkpoints +
                       ((range.checkpoint + tile) * launch.shape.channels + channel) * kModes;
      }
      pass_states<T, false, Chained, 1>(
          u, lift, chain, [](int, int, float2&) {},
          [&](int tile_of_states, const float2(&before)[R]) {
            if (Tape && checkpoint != nullptr)
              checkpoint[4 * tile_of_states + q] = {before[0].x, before[0].y};
            store_states<T>(states, Shared::tile, tile_of_states, before);
          });
      __syncwarp();
      load_states<T>(state, states, Shared::tile);
      __syncwarp();
      if (left == 0) continue;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        float sum[rows][4][4] = {};
        multiply_half<terms, -1, 0>(sum, v, u, toeplitz, state, lower);
        T* const y = at_tile(launch.y);
        T* const ungated = has_ungated ? at_tile(launch.ungated) : nullptr;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const int position = run_position<rows>(r, v);
          float value[8], out[8];
          get_run<terms, rows>(u, r / 2, r % 2, v, value);
#pragma unroll
          for (int i = 0; i < 8; ++i)
            out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2] + skip * value[i];
          if (has_ungated) store_eight(ungated + position, left - position, full, out);
          query[v].multiply_into(out, r);
          store_eight(y + position, left - position, full, out);
        }
      }
    }
    __syncwarp();
  }
}

}  // namespace ssm::cuda::device
