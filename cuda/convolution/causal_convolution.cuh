// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/causal_convolution.hpp>
#include <type_traits>  // std::remove_const_t

#include "kernel/block_transform.cuh"

namespace ssm::cuda::device {

template <class T>
inline constexpr int half_terms = sizeof(T) == 2 && operand_terms<T> == 1 ? 1 : 2;

/// A channel's spectrum as the third stage holds it: [tile][pair][half][lane] of P::last_tiles,
/// R3/8, 2 and 32; floats.
template <class P>
struct Spectrum {
  static constexpr std::size_t bytes = std::size_t{P::points} * 8;

  __device__ static void load(const char* base, int tile, int pair, float2 (&v)[2][2]) {
    const int at = (tile * (P::R3 / 8) + pair) * 64 + threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float4 raw = reinterpret_cast<const float4*>(base)[at + 32 * h];
      v[h][0] = {raw.x, raw.y}, v[h][1] = {raw.z, raw.w};
    }
  }
  __device__ static void store(char* base, int tile, int pair, const float2 (&v)[2][2]) {
    const int at = (tile * (P::R3 / 8) + pair) * 64 + threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h)
      reinterpret_cast<float4*>(base)[at + 32 * h] = {v[h][0].x, v[h][0].y, v[h][1].x, v[h][1].y};
  }
};

/// What a lane reads and writes of a sequence: runs of eight positions in rows q and 4 + q of a
/// [16, columns] view.
template <class P>
__device__ inline int lane_position(int row) {
  const int lane = threadIdx.x % 32;
  return (4 * row + lane % 4) * P::columns + 64 * (threadIdx.x / 32) + 8 * (lane / 4);
}

/// Two sequences, of which the second may be missing.
template <class T>
struct PairOf {
  T* row[2];
};

template <class T>
__device__ inline PairOf<T> pair_of(const Sequences<T>& tensor, int pair, int batch, int channel) {
  PairOf<T> out{{nullptr, nullptr}};
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (tensor.data != nullptr && 2 * pair + i < batch)
      out.row[i] =
          tensor.data + (2 * pair + i) * tensor.batch_stride + channel * tensor.channel_stride;
  return out;
}

/// True where the runs of eight positions are whole or missing, and aligned.
template <class T>
__device__ inline bool has_whole_runs(const PairOf<T>& pair, int length) {
  return is_aligned(pair.row[0]) && is_aligned(pair.row[1]) && length % 8 == 0;
}

/// v[sequence][row] = x; missing positions are zero. All loads are under way before the first is
/// used.
template <class P, class T>
__device__ inline void load_rows(float (&v)[2][2][8], const PairOf<T>& x, int length, bool whole) {
  using Scalar = std::remove_const_t<T>;
  if (whole) {
    constexpr int words = sizeof(Scalar) * 8 / 16;
    uint4 raw[2][2][words];
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int position = lane_position<P>(row);
        const bool present = x.row[i] != nullptr && position < length;
#pragma unroll
        for (int k = 0; k < words; ++k) {
          raw[i][row][k] = {0u, 0u, 0u, 0u};
          if (present)
            raw[i][row][k] = __ldg(reinterpret_cast<const uint4*>(x.row[i] + position) + k);
        }
      }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int row = 0; row < 2; ++row) widen<Scalar>(raw[i][row], v[i][row]);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int position = lane_position<P>(row);
        load_eight(x.row[i] + position, x.row[i] != nullptr ? length - position : 0, false,
                   v[i][row]);
      }
  }
}

/// v ⊙= gate, if there is one.
template <class P, class T>
__device__ inline void multiply_rows(float (&v)[2][2][8], const PairOf<T>& gate, int length,
                                     bool whole) {
  if (gate.row[0] == nullptr) return;
  float factor[2][2][8];
  load_rows<P>(factor, gate, length, whole);
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int c = 0; c < 8; ++c) v[i][row][c] *= factor[i][row][c];
}

template <class P, class T>
__device__ inline void store_rows(const float (&v)[2][2][8], const PairOf<T>& y, int length,
                                  bool whole) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int position = lane_position<P>(row);
      if (y.row[i] != nullptr && position < length)
        store_eight(y.row[i] + position, length - position, whole, v[i][row]);
    }
}

/// The outputs of last_stage as rows, each sequence with its scale.
__device__ inline void unpack_rows(float (&v)[2][2][8], const float2 (&out)[2][8], float2 scale) {
#pragma unroll
  for (int row = 0; row < 2; ++row)
#pragma unroll
    for (int c = 0; c < 8; ++c)
      v[0][row][c] = scale.x * out[row][c].x, v[1][row][c] = scale.y * out[row][c].y;
}

/// Asks for the rows of a later pair to be brought to the L2 cache.
template <class P, class T>
__device__ inline void prefetch_rows(const Sequences<T>& tensor, int pair, int batch, int channel,
                                     int length) {
  if (tensor.data == nullptr) return;
  const PairOf<T> next = pair_of(tensor, pair, batch, channel);
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int position = lane_position<P>(row);
      if (threadIdx.x % 32 < 4 && next.row[i] != nullptr && position < length)
        prefetch(next.row[i] + position);
    }
}

/// The power of two that brings a largest magnitude into [8, 16): fixed-point-like use of half's
/// narrow range.
__device__ inline float range_scale(float largest) {
  if (!(largest > 0.f) || isinf(largest)) return 1.f;
  return exp2f(static_cast<float>(min(max(3 - ilogbf(largest), -120), 120)));
}

/// Largest (or summed) magnitudes of two sequences over the block. One barrier; scratch is free
/// again after the next.
template <class P, bool Sum>
__device__ inline float2 block_magnitude(const float (&v)[2][2][8], float* scratch) {
  float total[2] = {0.f, 0.f};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int c = 0; c < 8; ++c)
        total[i] = Sum ? total[i] + fabsf(v[i][row][c]) : fmaxf(total[i], fabsf(v[i][row][c]));
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
      const float other = __shfl_xor_sync(~0u, total[i], lane);
      total[i] = Sum ? total[i] + other : fmaxf(total[i], other);
    }
    if (threadIdx.x % 32 == 0) scratch[2 * (threadIdx.x / 32) + i] = total[i];
  }
  __syncthreads();
  float2 all{0.f, 0.f};
  for (int w = 0; w < P::warps; ++w) {
    const float2 one = reinterpret_cast<const float2*>(scratch)[w];
    all = Sum ? float2{all.x + one.x, all.y + one.y}
              : float2{fmaxf(all.x, one.x), fmaxf(all.y, one.y)};
  }
  return all;
}

/// The forward transform up to the third stage, which stays with the caller. Ends with a barrier.
template <class P>
__device__ inline void transform(const Stages<P>& s, const float (&v)[2][2][8], float2 scale) {
  unsigned a[P::Terms][4][4];
#pragma unroll
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      unsigned pairs[P::Terms];
      split_half(scale.x * v[0][k / 2][2 * t + k % 2], scale.y * v[1][k / 2][2 * t + k % 2], pairs);
#pragma unroll
      for (int i = 0; i < P::Terms; ++i) a[i][t][k] = pairs[i];
    }
  first_stage(s, a);
  __syncthreads();
#pragma unroll 1
  for (int tile = threadIdx.x / 32; tile < P::step_tiles; tile += P::warps)
    second_stage<P, false>(s, tile);
  __syncthreads();
}

/// The inverse after its first stage: out as last_stage. Begins with a barrier.
template <class P>
__device__ inline void transform_back(const Stages<P>& s, float2 (&out)[2][8]) {
  __syncthreads();
#pragma unroll 1
  for (int tile = threadIdx.x / 32; tile < P::step_tiles; tile += P::warps)
    second_stage<P, true>(s, tile);
  __syncthreads();
  last_stage(s, out);
}

/// factor · frequency, laid out as third_stage leaves it, to a spectrum.
template <class P>
__device__ inline void store_spectrum(char* base, int tile, const float (&frequency)[P::R3 / 4][4],
                                      float factor) {
#pragma unroll
  for (int pair = 0; pair < P::R3 / 8; ++pair) {
    float2 k[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        k[h][half] = {factor * frequency[2 * pair + h][2 * half],
                      factor * frequency[2 * pair + h][2 * half + 1]};
    Spectrum<P>::store(base, tile, pair, k);
  }
}

/// sum ⊙ filter, or its conjugate.
template <class P, bool Conjugate>
__device__ inline void apply_filter(float (&sum)[P::R3 / 4][4], const char* filter, int tile) {
#pragma unroll
  for (int pair = 0; pair < P::R3 / 8; ++pair) {
    float2 k[2][2];
    Spectrum<P>::load(filter, tile, pair, k);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const v = &sum[2 * pair + h][2 * half];
        const float2 w = Conjugate ? conjugate(k[h][half]) : k[h][half];
        const float2 product = multiply(float2{v[0], v[1]}, w);
        v[0] = product.x, v[1] = product.y;
      }
  }
}

struct KernelLaunch {
  const float* kernel;  // [D, pitch]
  const float* skip;    // [D] or null: added to the first tap
  int pitch;
  int taps;        // of them used, at most P::length
  char* spectrum;  // [D, Spectrum::bytes]
  float* unscale;  // [D]
};

/// Spectrum of one channel's kernel, scaled to at most 8, so that products with inputs of at most
/// 16 stay in range.
template <class P>
__global__ void __launch_bounds__(P::threads) transform_kernel(const KernelLaunch launch) {
  extern __shared__ char shared[];
  const Stages<P> s = make_stages<P>(shared);
  const int channel = blockIdx.x;
  const PairOf<const float> kernel{
      {launch.kernel + static_cast<long long>(channel) * launch.pitch, nullptr}};
  float v[2][2][8];
  load_rows<P>(v, kernel, launch.taps, has_whole_runs(kernel, launch.taps));
  if (threadIdx.x == 0 && launch.skip != nullptr) v[0][0][0] += launch.skip[channel];
  const float sum = block_magnitude<P, true>(v, s.scratch).x;
  __syncthreads();
  const float largest = block_magnitude<P, false>(v, s.scratch).x;
  const float in = range_scale(largest), out = 0.5f * range_scale(sum);
  transform(s, v, {in, 1.f});
  const float factor = out / (in * P::gain);
#pragma unroll 1
  for (int tile = threadIdx.x / 32; tile < P::last_tiles; tile += P::warps) {
    float frequency[P::R3 / 4][4];
    third_stage(s, tile, frequency);
    store_spectrum<P>(launch.spectrum + channel * Spectrum<P>::bytes, tile, frequency, factor);
  }
  if (threadIdx.x == 0) launch.unscale[channel] = 1.f / out;
}

template <class T>
struct ConvolutionLaunch {
  CausalConvolution<T> call;
  const char* spectrum;
  const float* unscale;
};

/// Convolves pairs of sequences blockIdx.y, blockIdx.y + gridDim.y, … of channel blockIdx.x with
/// its kernel.
template <class P, class T>
__global__ void __launch_bounds__(P::threads, 1) convolve(const ConvolutionLaunch<T> launch) {
  extern __shared__ char shared[];
  const Stages<P> s = make_stages<P>(shared);
  const CausalConvolution<T>& call = launch.call;
  const int channel = blockIdx.x, pairs = (call.batch + 1) / 2;
  const char* const filter = launch.spectrum + channel * Spectrum<P>::bytes;
  const float unscale = launch.unscale[channel];
  for (int pair = blockIdx.y; pair < pairs; pair += gridDim.y) {
    const auto x = pair_of(call.x, pair, call.batch, channel);
    const auto gate_in = pair_of(call.gate_in, pair, call.batch, channel);
    const auto gate_out = pair_of(call.gate_out, pair, call.batch, channel);
    const auto y = pair_of(call.y, pair, call.batch, channel);
    const bool whole = has_whole_runs(x, call.length) && has_whole_runs(y, call.length) &&
                       has_whole_runs(gate_in, call.length) &&
                       has_whole_runs(gate_out, call.length);
    float v[2][2][8];
    load_rows<P>(v, x, call.length, whole);
    multiply_rows<P>(v, gate_in, call.length, whole);
    const float2 largest = block_magnitude<P, false>(v, s.scratch);
    const float2 scale{range_scale(largest.x), range_scale(largest.y)};
    transform(s, v, scale);
    const int later = pair + static_cast<int>(gridDim.y);
    prefetch_rows<P>(call.gate_out, pair, call.batch, channel, call.length);
    prefetch_rows<P>(call.x, later, call.batch, channel, call.length);
    prefetch_rows<P>(call.gate_in, later, call.batch, channel, call.length);
#pragma unroll 1
    for (int tile = threadIdx.x / 32; tile < P::last_tiles; tile += P::warps) {
      float sum[P::R3 / 4][4];
      third_stage(s, tile, sum);
      apply_filter<P, false>(sum, filter, tile);
      third_stage_back(s, tile, sum);
    }
    float2 out[2][8];
    transform_back(s, out);
    unpack_rows(v, out, {unscale / scale.x, unscale / scale.y});
    multiply_rows<P>(v, gate_out, call.length, whole);
    store_rows<P>(v, y, call.length, whole);
  }
}

}  // namespace ssm::cuda::device
