// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/shift_convolution.cuh"

namespace ssm::cuda::device {

template <class T>
struct ShiftBackwardLaunch {
  ShiftConvolutionBackward<T> call;
  const char* matrices;
  float* partial;  // [D, groups, kChunk]
};

/// Chunks of a block's step, and its shared memory: the adjoint's matrices, then inputs and
/// outputs' gradients as [chunks, 64] bf16 rows. Row r of the inputs is chunk r − 8 of the step, so
/// that the chunk before has a place; row r of the gradients is chunk r, and the chunk after has
/// one.
template <class T>
inline constexpr int step_chunks = kWarps * 16 * row_tiles<T>;
template <class T>
struct ShiftBackwardShared {
  static constexpr int rows = step_chunks<T> + 8;
  static constexpr int matrix_words = matrix_terms<T> * kFragmentWords;
  static constexpr std::size_t bytes =
      (std::size_t{2} * matrix_words + 2 * operand_terms<T> * rows * 8) * 16;
};
enum ShiftTile { kKeys, kGradients };

template <class T>
__device__ inline uint4* shift_address(uint4* tiles, int which, int term, int row, int vector) {
  return tiles + ((which * operand_terms<T> + term) * ShiftBackwardShared<T>::rows + row) * 8 +
         (vector ^ (row & 7));
}

/// Brings chunk `chunk` of the step, run `run`, of x or of gate · dy to shared memory.
template <class T>
__device__ inline void store_chunk(uint4* tiles, int which, int row, int run,
                                   const uint4 (&raw)[sizeof(T) / 2], const T* gate, int count,
                                   bool full) {
  float value[8];
  widen<T>(raw, value);
  if (gate != nullptr) {
    float factor[8];
    load_eight(gate, count, full, factor);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= factor[i];
  }
  unsigned words[4][operand_terms<T>];
#pragma unroll
  for (int j = 0; j < 4; ++j) split_bf16(value[2 * j], value[2 * j + 1], words[j]);
#pragma unroll
  for (int t = 0; t < operand_terms<T>; ++t)
    *shift_address<T>(tiles, which, t, row, run) = {words[0][t], words[1][t], words[2][t],
                                                    words[3][t]};
}

/// Positions from `begin` on of p (times a gate) to rows `row`, … of a tile; what lies outside 0 …
/// length − 1 is zero.
template <class T>
__device__ inline void load_chunks(uint4* tiles, int which, int row, int chunks, const T* p,
                                   const T* gate, long long begin, long long length, bool full) {
#pragma unroll 4
  for (int i = threadIdx.x; i < chunks * 8; i += kThreads) {
    const long long at = begin + 8 * i;
    const bool inside = at >= 0 && at < length;
    const int count = inside ? static_cast<int>(min(length - at, 8ll)) : 0;
    if (operand_terms<T> == 1 && full && count == 8 && gate == nullptr) {
      copy_async(shift_address<T>(tiles, which, 0, row + i / 8, i % 8), p + at);
      continue;
    }
    uint4 raw[sizeof(T) / 2];
    if (full && count == 8) {
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(T) / 2); ++k)
        raw[k] = __ldg(reinterpret_cast<const uint4*>(p + at) + k);
    } else {
      load_guarded(p + at, count, raw);
    }
    store_chunk<T>(tiles, which, row + i / 8, i % 8, raw, gate != nullptr ? gate + at : nullptr,
                   count, full && count == 8);
  }
}

/// dx of this warp's chunks: columns of  here · dy  and  beside · dy of the chunk after.
template <class T>
__device__ inline void write_inputs_gradient(uint4* tiles, Packed here, Packed beside, T* dx,
                                             long long left, bool full) {
  constexpr int terms = operand_terms<T>, rows = row_tiles<T>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    float sum[rows][4][4] = {};
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int after = 0; after < 2; ++after) {
        if (after == 0 ? step / 2 < v : step / 2 > v) continue;
        LeftFragments<terms, rows> a;
#pragma unroll
        for (int t = 0; t < terms; ++t)
#pragma unroll
          for (int m = 0; m < rows; ++m)
            load_tiles(
                a.pair[t][m][step],
                shift_address<T>(tiles, kGradients, t, 16 * (warp * rows + m) + lane % 16 + after,
                                 2 * step + lane / 16));
#pragma unroll
        for (int pair = 0; pair < 2; ++pair)
          multiply_pair<matrix_terms<T>>(&sum[0][2 * pair], 4, a, step, 2 * v + pair,
                                         after ? beside : here);
      }
#pragma unroll
    for (int m = 0; m < rows; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int position = (16 * (warp * rows + m) + 8 * half + g) * kChunk + 32 * v + 8 * q;
        float out[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = sum[m][i / 2][2 * half + i % 2];
        store_eight(dx + position, static_cast<int>(max(min(left - position, 8ll), 0ll)), full,
                    out);
      }
  }
}

/// Adds to the products over chunks of outputs (16 positions a warp) with inputs of the same and of
/// the previous chunk.
template <class T>
__device__ inline void add_taps(uint4* tiles, float (&same)[8][4], float (&previous)[8][4]) {
  constexpr int terms = operand_terms<T>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, which = lane / 8, line = lane % 8;
#pragma unroll 1
  for (int k = 0; k < step_chunks<T>; k += 16) {
    unsigned outputs[terms][4];
#pragma unroll
    for (int t = 0; t < terms; ++t)
      load_transposed(outputs[t], shift_address<T>(tiles, kGradients, t, k + line + 8 * (which / 2),
                                                   2 * warp + which % 2));
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      unsigned inputs[2][terms][4];
#pragma unroll
      for (int t = 0; t < terms; ++t) {
        const int row = 8 + k + line + 8 * (which % 2), vector = 2 * pair + which / 2;
        if (pair <= warp)
          load_transposed(inputs[0][t], shift_address<T>(tiles, kKeys, t, row, vector));
        if (pair >= warp)
          load_transposed(inputs[1][t], shift_address<T>(tiles, kKeys, t, row - 1, vector));
      }
#pragma unroll
      for (int t = 0; t < terms * terms; ++t) {
        const int left = t / terms, right = t % terms;
        if (left + right >= terms) continue;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (pair <= warp)
            multiply_tile(same[2 * pair + h], outputs[left], inputs[0][right][2 * h],
                          inputs[0][right][2 * h + 1]);
          if (pair >= warp)
            multiply_tile(previous[2 * pair + h], outputs[left], inputs[1][right][2 * h],
                          inputs[1][right][2 * h + 1]);
        }
      }
    }
  }
}

/// dx = shiftᵀ(gate · dy) and the taps' gradient Σ gate_t·dy_t·x_{t−s} of channel blockIdx.x, both
/// from one reading of dy. Blocks take every gridDim.y-th step of step_chunks chunks.
template <class T>
__global__ void __launch_bounds__(kThreads, operand_terms<T> == 1 ? 3 : 1)
    shift_backward(const ShiftBackwardLaunch<T> launch) {
  using Shared = ShiftBackwardShared<T>;
  constexpr int chunks = step_chunks<T>;
  extern __shared__ uint4 shared[];
  uint4* const tiles = shared + 2 * Shared::matrix_words;
  const ShiftConvolutionBackward<T>& call = launch.call;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  stage(shared, launch.matrices + (channel * kShiftMatrices + kHereAdjoint) * shift_matrix_bytes<T>,
        2 * shift_matrix_bytes<T>);
  const Packed here{shared, shared + kFragmentWords};
  const Packed beside{shared + Shared::matrix_words,
                      shared + Shared::matrix_words + kFragmentWords};
  float same[8][4] = {}, previous[8][4] = {};
  // Tensor cores truncate when they accumulate: float data is summed there over one step, then
  // here.
  constexpr bool flushed = operand_terms<T> == 3;
  float total[flushed ? 2 : 1][8][4] = {};
  const int steps = (call.length + chunks * kChunk - 1) / (chunks * kChunk);
  const long long items = static_cast<long long>(call.batch) * steps;
  for (long long item = blockIdx.y; item < items; item += gridDim.y) {
    const Range range{0, call.length, static_cast<int>(item / steps), 0};
    const long long first = (item % steps) * chunks * kChunk;
    const T* const x = at(call.x, range, channel);
    const T* const dy = at(call.dy, range, channel);
    const T* const gate = at(call.gate, range, channel);
    T* const dx = at(call.dx, range, channel);
    const bool aligned = is_aligned(x) && is_aligned(dy) && is_aligned(gate) && is_aligned(dx);
    load_chunks<T>(tiles, kKeys, 7, chunks + 1, x, nullptr, first - kChunk, call.length, aligned);
    load_chunks<T>(tiles, kGradients, 0, chunks + 1, dy, gate, first, call.length, aligned);
    wait_for_copies();
    __syncthreads();
    write_inputs_gradient<T>(tiles, here, beside, dx + first, call.length - first,
                             aligned && call.length - first >= chunks * kChunk);
    add_taps<T>(tiles, same, previous);
    if constexpr (flushed) {
#pragma unroll
      for (int tile = 0; tile < 8; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[0][tile][i] += same[tile][i], total[1][tile][i] += previous[tile][i];
          same[tile][i] = previous[tile][i] = 0.f;
        }
    }
    __syncthreads();
  }
  if constexpr (flushed) {
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        same[tile][i] = total[0][tile][i], previous[tile][i] = total[1][tile][i];
  }
  float* const scratch = reinterpret_cast<float*>(shared);
  const int g = lane / 4, q = lane % 4;
  float tap = 0.f;
#pragma unroll 1
  for (int matrix = 0; matrix < 2; ++matrix) {
    __syncthreads();
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        scratch[(16 * warp + g + 8 * (i / 2)) * (kChunk + 1) + 8 * tile + 2 * q + i % 2] =
            matrix == 0 ? same[tile][i] : previous[tile][i];
    __syncthreads();
    // Output i and input k of one chunk are i − k apart, of neighboring chunks 64 + i − k.
    if (threadIdx.x < kChunk)
      for (int i = 0; i < kChunk; ++i) {
        const int k = i - static_cast<int>(threadIdx.x) + (matrix == 0 ? 0 : kChunk);
        if (k >= 0 && k < kChunk) tap += scratch[i * (kChunk + 1) + k];
      }
  }
  if (threadIdx.x < kChunk)
    launch.partial[(static_cast<long long>(channel) * gridDim.y + blockIdx.y) * kChunk +
                   threadIdx.x] = tap;
}

/// Adds the blocks' parts in order.
static __global__ void finish_taps(const float* partial, int groups, int taps, float* dkernel,
                                   float* dskip) {
  const int channel = blockIdx.x;
  double sum = 0.0;
  for (int group = 0; group < groups; ++group)
    sum += partial[(static_cast<long long>(channel) * groups + group) * kChunk + threadIdx.x];
  if (threadIdx.x < taps)
    dkernel[static_cast<long long>(channel) * taps + threadIdx.x] += static_cast<float>(sum);
  if (threadIdx.x == 0 && dskip != nullptr) dskip[channel] += static_cast<float>(sum);
}

}  // namespace ssm::cuda::device
