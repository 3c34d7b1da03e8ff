// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/shift_convolution.hpp>

#include "diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

/// The matrices of a short kernel K, each [64, 64] = [inner, outer] and packed as right operands:
///   here [p, q] = K[q − p]      beside [p, q] = K[64 + q − p], the chunk before
/// and their transposes for the adjoint, where the chunk beside is the one after.
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
    const int from = input_position(step, 2 * (lane % 4) + 8 * (reg % 2));
    const int lag = output_position(2 * pair + reg / 2, lane / 4) - from;
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
    write(kHereAdjoint, value(-lag), value(1 - lag));
    write(kBesideAdjoint, value(kChunk - lag), value(kChunk + 1 - lag));
  }
}

/// y = gate_out · shift(gate_in · x), or with Adjoint the transposed product.
template <class T>
struct ShiftLaunch {
  Sequences<const T> x, gate_in, gate_out;
  Sequences<T> y;
  const char* matrices;
  int batch;
  int length;
  unsigned zero;  // set_words
};

template <class T>
inline constexpr std::size_t shift_shared_bytes = 2 * shift_matrix_bytes<T>;

/// Each warp takes tiles of (sequence, tile) pairs of channel blockIdx.x in turn; tiles do not depend on each other.
template <class T, bool Adjoint>
__global__ void __launch_bounds__(kThreads, operand_terms<T> == 1 ? 4 : 2)
    shift_tiles(const ShiftLaunch<T> launch) {
  constexpr int rows = row_tiles<T>, R = 2 * rows;
  extern __shared__ uint4 shared[];
  const int channel = blockIdx.x, warp = threadIdx.x / 32;
  const char* const base = launch.matrices + channel * kShiftMatrices * shift_matrix_bytes<T> +
                           (Adjoint ? kHereAdjoint : kHere) * shift_matrix_bytes<T>;
  stage(shared, base, shift_shared_bytes<T>);
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
    const T* const gate_in =
        launch.gate_in.data != nullptr ? at(launch.gate_in, range, channel) + offset : nullptr;
    const T* const gate_out =
        launch.gate_out.data != nullptr ? at(launch.gate_out, range, channel) + offset : nullptr;
    T* const y = at(launch.y, range, channel) + offset;
    const bool full = is_aligned(x) && is_aligned(y) && is_aligned(gate_in) &&
                      is_aligned(gate_out) && left >= tile_positions<T>;
    OperandOf<T> u, w;
    const auto ignore = [](int, int, int, uint4) {};
    load_tile<T, Adjoint>(u, x, gate_in, left, full, launch.zero, ignore);
    // The tile one chunk before (after): zeros beyond the sequence, else mostly what the cache just saw.
    constexpr int side = Adjoint ? kChunk : -kChunk;
    if (Adjoint ? left >= tile_positions<T> + kChunk : offset > 0) {
      load_tile<T, Adjoint>(w, x + side, gate_in != nullptr ? gate_in + side : nullptr, left - side,
                            full, launch.zero, ignore);
    } else {
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const int position = run_position<rows>(r, v) + side;
          float value[8];
          load_eight(x + position, offset + position >= 0 ? left - position : 0, false, value);
          if (gate_in != nullptr && offset + position >= 0) {
            float factor[8];
            load_eight(gate_in + position, left - position, false, factor);
#pragma unroll
            for (int i = 0; i < 8; ++i) value[i] *= factor[i];
          }
          set_run(w, r, v, value);
        }
    }
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      float sum[rows][4][4] = {};
#pragma unroll
      for (int pair = 0; pair < 2; ++pair)
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          if (Adjoint ? step / 2 >= v : step / 2 <= v)
            multiply_pair<matrix_terms<T>>(&sum[0][2 * pair], 4, u, step, 2 * v + pair, here);
          if (Adjoint ? step / 2 <= v : step / 2 >= v)
            multiply_pair<matrix_terms<T>>(&sum[0][2 * pair], 4, w, step, 2 * v + pair, beside);
        }
      Runs<T> factor;
      if (gate_out != nullptr) factor.load(gate_out, v, left, full);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int position = run_position<rows>(r, v);
        float out[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = sum[r / 2][i / 2][2 * (r % 2) + i % 2];
        if (gate_out != nullptr) factor.multiply_into(out, r);
        store_eight(y + position, left - position, full, out);
      }
    }
  }
}

template <class T>
struct TapsLaunch {
  ShiftConvolutionBackward<T> call;
  float* partial;  // [D, groups, kChunk]
};

/// Rows of a block's step in shared memory: one chunk before, then the step's chunks.
inline constexpr int kTapChunks = 64;
template <class T>
inline constexpr std::size_t taps_shared_bytes = std::size_t{2 * operand_terms<T>} *
                                                 (kTapChunks + 8) * kChunk * 2;

/// The taps' gradient Σ dy_{t}·x_{t−s} of channel blockIdx.x: products over chunks of outputs with inputs of the same
/// and of the previous chunk, summed along diagonals. Blocks take every gridDim.y-th step of 64 chunks.
template <class T>
__global__ void __launch_bounds__(kThreads) taps_gradient(const TapsLaunch<T> launch) {
  constexpr int terms = operand_terms<T>, pitch_rows = kTapChunks + 8;
  extern __shared__ uint4 shared[];
  const ShiftConvolutionBackward<T>& call = launch.call;
  const int channel = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32,
            which = lane / 8, line = lane % 8;
  // Row r of the inputs is chunk r − 8 of the step: an aligned step reads rows 8 …, the chunk before rows 7 ….
  const auto address = [&](int tensor, int term, int row, int vector) {
    return shared + ((tensor * terms + term) * pitch_rows + row) * 8 + (vector ^ (row & 7));
  };
  using Words = uint4[sizeof(T) / 2];
  const auto keep = [&](int tensor, int row, int run, const float(&value)[8]) {
    unsigned words[4][terms];
#pragma unroll
    for (int j = 0; j < 4; ++j) split_bf16(value[2 * j], value[2 * j + 1], words[j]);
#pragma unroll
    for (int t = 0; t < terms; ++t)
      *address(tensor, t, row, run) = {words[0][t], words[1][t], words[2][t], words[3][t]};
  };
  constexpr int turns = kTapChunks * 8 / kThreads;
  const auto load = [&](Words(&raw)[turns], const T* p, long long left, bool full) {
#pragma unroll
    for (int i = 0; i < turns; ++i) {
      const int at = 8 * (static_cast<int>(threadIdx.x) + i * kThreads);
      if (full) {
#pragma unroll
        for (int k = 0; k < static_cast<int>(sizeof(T) / 2); ++k)
          raw[i][k] = __ldg(reinterpret_cast<const uint4*>(p + at) + k);
      } else {
        load_guarded(p + at, static_cast<int>(max(min(left - at, 8ll), 0ll)), raw[i]);
      }
    }
  };
  float here[8][4] = {}, before[8][4] = {};
  // Tensor cores truncate when they accumulate: float data is summed there over one step, then here.
  constexpr bool flushed = terms == 3;
  float total[flushed ? 2 : 1][8][4] = {};
  const int steps = (call.length + kTapChunks * kChunk - 1) / (kTapChunks * kChunk);
  const long long items = static_cast<long long>(call.batch) * steps;
  for (long long item = blockIdx.y; item < items; item += gridDim.y) {
    const Range range{0, call.length, static_cast<int>(item / steps), 0};
    const long long first = (item % steps) * kTapChunks * kChunk;
    const T* const x = at(call.x, range, channel);
    const T* const dy = at(call.dy, range, channel);
    const T* const gate = at(call.gate, range, channel);
    const long long left = call.length - first;
    const bool full =
        is_aligned(x) && is_aligned(dy) && is_aligned(gate) && left >= kTapChunks * kChunk;
    Words inputs[turns], outputs[turns], gates[turns];
    load(inputs, x + first, left, full);
    load(outputs, dy + first, left, full);
    if (gate != nullptr) load(gates, gate + first, left, full);
    if (threadIdx.x < 8) {
      float value[8];
      load_eight(x + first - kChunk + 8 * threadIdx.x, first > 0 ? 8 : 0, false, value);
      keep(0, 7, threadIdx.x, value);
    }
#pragma unroll
    for (int i = 0; i < turns; ++i) {
      const int at = threadIdx.x + i * kThreads;
      float value[8], factor[8];
      widen<T>(inputs[i], value);
      keep(0, 8 + at / 8, at % 8, value);
      widen<T>(outputs[i], value);
      if (gate != nullptr) {
        widen<T>(gates[i], factor);
#pragma unroll
        for (int k = 0; k < 8; ++k) value[k] *= factor[k];
      }
      keep(1, 8 + at / 8, at % 8, value);
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 8; k < pitch_rows; k += 16) {
      unsigned rows[terms][4];
#pragma unroll
      for (int t = 0; t < terms; ++t)
        load_transposed(rows[t], address(1, t, k + line + 8 * (which / 2), 2 * warp + which % 2));
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        unsigned same[terms][4], previous[terms][4];
#pragma unroll
        for (int t = 0; t < terms; ++t) {
          const int row = k + line + 8 * (which % 2), vector_index = 2 * pair + which / 2;
          load_transposed(same[t], address(0, t, row, vector_index));
          load_transposed(previous[t], address(0, t, row - 1, vector_index));
        }
#pragma unroll
        for (int t = 0; t < terms * terms; ++t) {
          const int left = t / terms, right = t % terms;
          if (left + right >= terms) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if (pair <= warp)
              multiply_tile(here[2 * pair + h], rows[left], same[right][2 * h],
                            same[right][2 * h + 1]);
            if (pair >= warp)
              multiply_tile(before[2 * pair + h], rows[left], previous[right][2 * h],
                            previous[right][2 * h + 1]);
          }
        }
      }
    }
    if constexpr (flushed) {
#pragma unroll
      for (int tile = 0; tile < 8; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[0][tile][i] += here[tile][i], total[1][tile][i] += before[tile][i];
          here[tile][i] = before[tile][i] = 0.f;
        }
    }
    __syncthreads();
  }
  if constexpr (flushed) {
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        here[tile][i] = total[0][tile][i], before[tile][i] = total[1][tile][i];
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
            matrix == 0 ? here[tile][i] : before[tile][i];
    __syncthreads();
    // Output i and input k of one chunk are i − k apart, of neighbouring chunks 64 + i − k.
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
