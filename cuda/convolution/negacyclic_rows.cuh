// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/causal_convolution.hpp>

#include "convolution/negacyclic_transform.cuh"

namespace ssm::cuda::device {

/// y = gate_out · conv(gate_in · x), and in an adjoint second = second_gate · conv(gate_in · x);
/// all but x and y may be null.
struct SequenceProduct {
  int batch = 0, channels = 0, length = 0;
  Sequences<const BFloat16> x{}, gate_in{}, gate_out{}, second_gate{};
  Sequences<BFloat16> y{}, second{};

  bool gated() const {
    return gate_in.data != nullptr || gate_out.data != nullptr || second.data != nullptr;
  }
};

/// Adds the kernel's gradient, Σ_b Σ_t (gate_out · dy)_t · (gate_in · x)_{t−τ}.
struct KernelGradientLaunch {
  int batch, channels, length, taps;
  Sequences<const BFloat16> x, gate_in, dy, gate_out;
  float* dkernel;  // [D, taps]
  float* dskip;    // [D] or null
};

/// Sum or largest of a row's magnitudes over the `Rows` neighboring rows it belongs to; a barrier
/// if they are several.
template <bool Sum, int Rows>
__device__ inline float rows_magnitude(float v, float* scratch) {
  const int row = threadIdx.x / 32;
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const float other = __shfl_xor_sync(~0u, v, lane);
    v = Sum ? v + other : fmaxf(v, other);
  }
  if constexpr (Rows > 1) {
    if (threadIdx.x % 32 == 0) scratch[row] = v;
    __syncthreads();
    v = 0.f;
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const float one = scratch[row / Rows * Rows + i];
      v = Sum ? v + one : fmaxf(v, one);
    }
  }
  return v;
}

/// The power of two that brings a largest magnitude into [8, 16), and its inverse; zero and
/// infinity get some power.
__device__ inline float2 range_powers(float largest) {
  const unsigned exponent = min(max(__float_as_uint(largest) >> 23, 10u), 246u);
  return {__uint_as_float((257 - exponent) << 23), __uint_as_float((exponent - 3) << 23)};
}

/// This warp's row of tile `tile` of a channel's sequences: block row % Blocks of sequence
/// P::rows / Blocks · tile + row / Blocks, in runs of eight positions. Reversed: time runs
/// backwards, from the end of the last block.
template <class P, int Blocks, bool Reversed>
struct TileRow {
  static constexpr int sequences = P::rows / Blocks, length = Blocks * P::length;
  int sequence, first, left;  // left: positions of the sequence, none if there is no such sequence

  __device__ TileRow(int tile, int batch, int positions) {
    const int row = threadIdx.x / 32 % P::rows, lane = threadIdx.x % 32;
    sequence = tile * sequences + row / Blocks;
    left = sequence < batch ? positions : 0;
    const int at = row % Blocks * P::length + lane * 8;
    first = Reversed ? length - 8 - at : at;
  }
  /// Position in memory of run i of this lane.
  __device__ int at(int i) const { return Reversed ? first - 256 * i : first + 256 * i; }

  template <class T>
  __device__ T* of(const Sequences<T>& tensor, int channel) const {
    return tensor.data == nullptr
               ? nullptr
               : tensor.data + sequence * tensor.batch_stride + channel * tensor.channel_stride;
  }
  /// The runs as they lie in memory, missing positions zero. `whole`: all are whole or missing, and
  /// aligned.
  __device__ void load(uint4 (&raw)[P::runs], const BFloat16* x, bool whole) const {
    if (whole) {
#pragma unroll
      for (int i = 0; i < P::runs; ++i) {
        raw[i] = {0u, 0u, 0u, 0u};
        if (at(i) < left) raw[i] = __ldg(reinterpret_cast<const uint4*>(x + at(i)));
      }
    } else {
#pragma unroll
      for (int i = 0; i < P::runs; ++i) {
        uint4 one[1];
        load_guarded(x + at(i), left - at(i), one);
        raw[i] = one[0];
      }
    }
  }
  /// Asks for the row's lines, of 64 positions, to be brought to the L2 cache.
  __device__ void prefetch_lines(const BFloat16* x) const {
    const int lane = threadIdx.x % 32;
    const int line = Reversed ? first + 8 - P::length + lane * 72 : first + lane * 56;
    if (line < left && lane < P::length / 64) prefetch(x + line);
  }
};

/// The floats of runs as they lie in memory, and their products with a gate's.
template <class P>
__device__ inline void widen_runs(float (&v)[P::runs][8], const uint4 (&x)[P::runs]) {
#pragma unroll
  for (int i = 0; i < P::runs; ++i) widen<BFloat16>({x[i]}, v[i]);
}
template <class P>
__device__ inline void multiply_runs(float (&v)[P::runs][8], const uint4 (&gate)[P::runs]) {
#pragma unroll
  for (int i = 0; i < P::runs; ++i) {
    float factor[8];
    widen<BFloat16>({gate[i]}, factor);
#pragma unroll
    for (int c = 0; c < 8; ++c) v[i][c] *= factor[c];
  }
}

template <class P>
__device__ inline float largest_magnitude(const float (&v)[P::runs][8]) {
  float largest = 0.f;
#pragma unroll
  for (int i = 0; i < P::runs; ++i)
#pragma unroll
    for (int c = 0; c < 8; ++c) largest = fmaxf(largest, fabsf(v[i][c]));
  return largest;
}

/// This warp's row, scaled, to shared memory.
template <class P, bool Reversed>
__device__ inline void store_halves(unsigned data, const float (&v)[P::runs][8], float scale) {
#pragma unroll
  for (int i = 0; i < P::runs; ++i) {
    unsigned word[4];
#pragma unroll
    for (int c = 0; c < 4; ++c)
      word[c] = Reversed ? pack_half(scale * v[i][7 - 2 * c], scale * v[i][6 - 2 * c])
                         : pack_half(scale * v[i][2 * c], scale * v[i][2 * c + 1]);
    store_run(run_address<P>(data, i), {word[0], word[1], word[2], word[3]});
  }
  __syncwarp();
}

__device__ inline uint4 reversed(uint4 run) {
  return {__byte_perm(run.w, 0, 0x1032), __byte_perm(run.z, 0, 0x1032),
          __byte_perm(run.y, 0, 0x1032), __byte_perm(run.x, 0, 0x1032)};
}

}  // namespace ssm::cuda::device
