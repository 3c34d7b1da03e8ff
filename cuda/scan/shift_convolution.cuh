// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/shift_convolution.hpp>

#include "scan/diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

/// The matrices of a short kernel K, each [64, 64] = [inner, outer] and packed as right operands:
///   here [p, q] = K[q − p]      beside [p, q] = K[64 + q − p], the chunk before
/// and their transposes for the adjoint, where the chunk beside is the one after. The adjoint's
/// inner positions are in their natural order, since its operands come from shared memory.
enum ShiftMatrix { kHere, kBeside, kHereAdjoint, kBesideAdjoint, kShiftMatrices };

template <class T>
inline constexpr std::size_t shift_matrix_bytes =
    std::size_t{matrix_terms<T>} * kFragmentWords * 16;

/// The first `count` of a channel's matrices.
template <class T>
__global__ void __launch_bounds__(256) build_shift_matrices(const float* kernel, const float* skip,
                                                            int taps, int count, char* workspace) {
  __shared__ float tap[kChunk];
  const int channel = blockIdx.x;
  if (threadIdx.x < kChunk) {
    float v =
        threadIdx.x < taps ? kernel[static_cast<long long>(channel) * taps + threadIdx.x] : 0.f;
    if (threadIdx.x == 0 && skip != nullptr) v += skip[channel];
    tap[threadIdx.x] = v;
  }
  __syncthreads();
  const auto value = [&](int lag) { return lag >= 0 && lag < kChunk ? tap[lag] : 0.f; };
  char* const base = workspace + channel * kShiftMatrices * shift_matrix_bytes<T>;
  for (int word = threadIdx.x; word < 4 * kFragmentWords; word += blockDim.x) {
    const int reg = word % 4, lane = word / 4 % 32, step = word / 128 % 4, pair = word / 512;
    const int inner = 2 * (lane % 4) + 8 * (reg % 2),
              to = output_position(2 * pair + reg / 2, lane / 4);
    const int lag = to - input_position(step, inner), lead = 16 * step + inner - to;
    const auto write = [&](int matrix, float low, float high) {
      unsigned pairs[matrix_terms<T>];
      split_bf16(low, high, pairs);
      unsigned* const out = reinterpret_cast<unsigned*>(base + matrix * shift_matrix_bytes<T>);
#pragma unroll
      for (int t = 0; t < matrix_terms<T>; ++t) out[t * 4 * kFragmentWords + word] = pairs[t];
    };
    write(kHere, value(lag), value(lag - 1));
    write(kBeside, value(kChunk + lag), value(kChunk + lag - 1));
    if (count <= kHereAdjoint) continue;
    write(kHereAdjoint, value(lead), value(lead + 1));
    write(kBesideAdjoint, value(kChunk + lead), value(kChunk + lead + 1));
  }
}

/// The last row of the tile before as the lanes of the first group need it: [term][step][register
/// pair]
template <class T>
struct Edge {
  unsigned pair[operand_terms<T>][4][2];

  /// Zeros, or for the first group what lies a chunk before `x`, a tile of which `left` positions
  /// remain.
  __device__ void load(const T* x, int left, bool there) {
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const int position = 32 * v + 8 * (threadIdx.x % 4) - kChunk;
      float value[8];
      load_eight(x + position, there && threadIdx.x % 32 < 4 ? left - position : 0, false, value);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        unsigned words[operand_terms<T>];
        split_bf16(value[2 * j], value[2 * j + 1], words);
#pragma unroll
        for (int t = 0; t < operand_terms<T>; ++t) pair[t][2 * v + (j >> 1)][j & 1] = words[t];
      }
    }
  }
};

/// Every row's chunk before it; the first row of the tile gets `edge`, which becomes the tile's
/// last row.
template <class T>
__device__ inline LeftFragmentsOf<T> chunk_before(const LeftFragmentsOf<T>& a, Edge<T>& edge) {
  constexpr int R = 2 * row_tiles<T>;
  const int lane = threadIdx.x % 32;
  LeftFragmentsOf<T> out;
#pragma unroll
  for (int t = 0; t < operand_terms<T>; ++t)
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const unsigned other =
            __shfl_sync(~0u, a.pair[t][(R - 1) / 2][step][(R - 1) % 2 + 2 * j], (lane + 28) % 32);
        out.pair[t][0][step][2 * j] = lane < 4 ? edge.pair[t][step][j] : other;
        edge.pair[t][step][j] = other;
#pragma unroll
        for (int r = 1; r < R; ++r)
          out.pair[t][r / 2][step][r % 2 + 2 * j] =
              a.pair[t][(r - 1) / 2][step][(r - 1) % 2 + 2 * j];
      }
  return out;
}

/// y = gate · shift(x)
template <class T>
struct ShiftLaunch {
  Sequences<const T> x, gate;
  Sequences<T> y;
  const char* matrices;
  int batch;
  int length;
  unsigned zero;  // set_words
};

template <class T>
inline constexpr std::size_t shift_shared_bytes = 2 * shift_matrix_bytes<T>;

/// Each warp takes tiles of (sequence, tile) pairs of channel blockIdx.x in turn; tiles do not
/// depend on each other.
template <class T>
__global__ void __launch_bounds__(kThreads, operand_terms<T> == 1 ? 4 : 2)
    shift_tiles(const ShiftLaunch<T> launch) {
  constexpr int rows = row_tiles<T>, R = 2 * rows;
  extern __shared__ uint4 shared[];
  const int channel = blockIdx.x, warp = threadIdx.x / 32;
  stage(shared, launch.matrices + channel * kShiftMatrices * shift_matrix_bytes<T>,
        shift_shared_bytes<T>);
  wait_for_copies();
  __syncthreads();
  const Packed here{shared, shared + kFragmentWords};
  const Packed beside{shared + matrix_terms<T> * kFragmentWords,
                      shared + (matrix_terms<T> + 1) * kFragmentWords};
  const int tiles = (launch.length + tile_positions<T> - 1) / tile_positions<T>;
  const long long items = static_cast<long long>(launch.batch) * tiles;
  for (long long item = blockIdx.y * kWarps + warp; item < items;
       item += static_cast<long long>(gridDim.y) * kWarps) {
    const Range range{0, launch.length, static_cast<int>(item / tiles), 0};
    const long long offset = (item % tiles) * tile_positions<T>;
    const int left = static_cast<int>(launch.length - offset);
    const T* const x = at(launch.x, range, channel) + offset;
    const T* const gate =
        launch.gate.data != nullptr ? at(launch.gate, range, channel) + offset : nullptr;
    T* const y = at(launch.y, range, channel) + offset;
    const bool full =
        is_aligned(x) && is_aligned(y) && is_aligned(gate) && left >= tile_positions<T>;
    LeftFragmentsOf<T> u;
    Edge<T> edge;
    edge.load(x, left, offset > 0);
    load_tile<T, false>(u, x, nullptr, left, full, launch.zero);
    const LeftFragmentsOf<T> previous = chunk_before<T>(u, edge);
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      float sum[rows][4][4] = {};
      multiply_half<matrix_terms<T>, -1, 1>(sum, v, u, here, previous, beside);
      Runs<T> factor;
      if (gate != nullptr) factor.load(gate, v, left, full);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int position = run_position<rows>(r, v);
        float out[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2];
        if (gate != nullptr) factor.multiply_into(out, r);
        store_eight(y + position, left - position, full, out);
      }
    }
  }
}

}  // namespace ssm::cuda::device
