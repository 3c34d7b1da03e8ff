// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/right_angle_gradient.cuh"
#include "convolution/row_convolution.cuh"

namespace ssm::cuda::device {

// The kernel's gradient as in right_angle_gradient.cuh, of sequences too long for sums in
// registers: spectra, their products and the products' sums lie in device memory.

struct SequenceTransformLaunch {
  int batch, channels, length;
  Sequences<const BFloat16> x, gate;
  const char* tables;
  char* spectra;          // [D, B, P::spectrum_bytes]
  SequenceScale* scales;  // [D, B], largest alone
};

/// Spectra of gate · x, Reversed: backwards in time.
template <class P, bool Reversed>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    transform_sequences(const SequenceTransformLaunch launch) {
  static_assert(P::Groups == 1);
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(aligned_shared, launch.tables);
  float* const scratch = reinterpret_cast<float*>(aligned_shared + P::scratch_at);
  using Runs = LaneRuns<P, Reversed>;
  const Runs runs(launch.length);
  for (int item = blockIdx.x; item < launch.batch * launch.channels; item += gridDim.x) {
    const auto of = [&](const Sequences<const BFloat16>& tensor, int i) {
      return tensor.data == nullptr ? nullptr
                                    : tensor.data + i % launch.batch * tensor.batch_stride +
                                          i / launch.batch * tensor.channel_stride;
    };
    const BFloat16* const x = of(launch.x, item);
    const BFloat16* const gate = of(launch.gate, item);
    const bool whole = launch.length % 8 == 0 && is_aligned(x) && is_aligned(gate);
    GatedRuns<true> inputs;
    runs.load(inputs.x, x, whole);
    inputs.load_gate(runs, gate, whole);
    const float2 scale = range_powers(sequence_magnitude<false, P>(inputs.largest(), scratch));
    if (threadIdx.x == 0) launch.scales[item] = {scale, scale};
    Runs::store_halves(s.data, inputs, scale.x);
    s.first_of_real();
    if (item + static_cast<int>(gridDim.x) < launch.batch * launch.channels) {
      runs.prefetch_lines(of(launch.x, item + gridDim.x));
      if (gate != nullptr) runs.prefetch_lines(of(launch.gate, item + gridDim.x));
    }
    __syncthreads();
    s.store_slabs(reinterpret_cast<uint4*>(launch.spectra +
                                           item * static_cast<std::size_t>(P::spectrum_bytes)),
                  1.f);
    __syncthreads();
  }
}

struct SpectrumSumLaunch {
  int batch;
  std::size_t points;           // of a channel
  const char *inputs, *others;  // spectra [D, B, points]
  const SequenceScale *input_scales, *other_scales;
  float* sums;        // [D, 2·points], in the order of the spectra
  unsigned* largest;  // [D] bits of the largest magnitude of a sum, zero before
};

/// Σ_b of the products of channel blockIdx.y; eight points a thread.
static __global__ void __launch_bounds__(256) sum_spectra(const SpectrumSumLaunch launch) {
  const std::size_t pair = std::size_t{blockIdx.x} * 256 + threadIdx.x;
  const std::size_t at = pair / 32 * 64 + pair % 32;  // quad of real parts, imaginary ones 32 on
  float re[8] = {}, im[8] = {};
#pragma unroll 2
  for (int b = 0; b < launch.batch; ++b) {
    const std::size_t sequence = std::size_t{blockIdx.y} * launch.batch + b;
    const auto quad = [&](const char* spectra, int i) {
      return __ldg(reinterpret_cast<const uint4*>(spectra) + sequence * (launch.points / 4) + at +
                   i);
    };
    const uint4 u[2] = {quad(launch.inputs, 0), quad(launch.inputs, 32)};
    const uint4 r[2] = {quad(launch.others, 0), quad(launch.others, 32)};
    const float factor =
        launch.input_scales[sequence].largest.y * launch.other_scales[sequence].largest.y;
    const unsigned words[4][4] = {{u[0].x, u[0].y, u[0].z, u[0].w},
                                  {u[1].x, u[1].y, u[1].z, u[1].w},
                                  {r[0].x, r[0].y, r[0].z, r[0].w},
                                  {r[1].x, r[1].y, r[1].z, r[1].w}};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 a = unpack_half(words[0][k]), c = unpack_half(words[1][k]);
      const float2 d = unpack_half(words[2][k]), e = unpack_half(words[3][k]);
      const float2 low = multiply(float2{a.x, c.x}, float2{d.x, e.x});
      const float2 high = multiply(float2{a.y, c.y}, float2{d.y, e.y});
      re[2 * k] = fmaf(factor, low.x, re[2 * k]), im[2 * k] = fmaf(factor, low.y, im[2 * k]);
      re[2 * k + 1] = fmaf(factor, high.x, re[2 * k + 1]);
      im[2 * k + 1] = fmaf(factor, high.y, im[2 * k + 1]);
    }
  }
  float4* const out = reinterpret_cast<float4*>(launch.sums + blockIdx.y * 2 * launch.points);
  float largest = 0.f;
#pragma unroll
  for (int k = 0; k < 8; ++k) largest = fmaxf(largest, fmaxf(fabsf(re[k]), fabsf(im[k])));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    out[2 * at + h] = {re[4 * h], re[4 * h + 1], re[4 * h + 2], re[4 * h + 3]};
    out[2 * (at + 32) + h] = {im[4 * h], im[4 * h + 1], im[4 * h + 2], im[4 * h + 3]};
  }
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lane));
  if (threadIdx.x % 32 == 0) atomicMax(launch.largest + blockIdx.y, __float_as_uint(largest));
}

struct SpectrumScaleLaunch {
  std::size_t points;
  const float* sums;
  const unsigned* largest;
  char* spectra;          // [D, points]
  SequenceScale* scales;  // [D], largest alone
};

/// The sums of channel blockIdx.y as half numbers.
static __global__ void __launch_bounds__(256) scale_spectra(const SpectrumScaleLaunch launch) {
  const std::size_t at = std::size_t{blockIdx.x} * 256 + threadIdx.x;
  const float2 scale = range_powers(__uint_as_float(launch.largest[blockIdx.y]));
  if (at == 0) launch.scales[blockIdx.y] = {scale, scale};
  const float4* const in =
      reinterpret_cast<const float4*>(launch.sums + blockIdx.y * 2 * launch.points) + 2 * at;
  const float4 a = __ldg(in), b = __ldg(in + 1);
  reinterpret_cast<uint4*>(launch.spectra)[blockIdx.y * (launch.points / 4) + at] = {
      pack_half(scale.x * a.x, scale.x * a.y), pack_half(scale.x * a.z, scale.x * a.w),
      pack_half(scale.x * b.x, scale.x * b.y), pack_half(scale.x * b.z, scale.x * b.w)};
}

struct GradientInverseLaunch {
  int taps, pitch;
  const char* tables;
  const char* spectra;          // [D, P::spectrum_bytes]
  const SequenceScale* scales;  // [D]
  float gain;
  float* dkernel;  // [D, pitch]
  float* dskip;    // [D] or null
};

/// Adds the inverse of channel blockIdx.x, backwards in time, to dkernel.
template <class P>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    invert_gradients(const GradientInverseLaunch launch) {
  static_assert(P::Groups == 1);
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(aligned_shared, launch.tables);
  const int channel = blockIdx.x;
  s.template filter_slabs<false, 1>(
      reinterpret_cast<const uint4*>(launch.spectra +
                                     channel * static_cast<std::size_t>(P::spectrum_bytes)),
      nullptr);
  __syncthreads();
  add_kernel_gradient(s, launch.gain * launch.scales[channel].largest.y, launch.taps,
                      launch.dkernel + static_cast<long long>(channel) * launch.pitch,
                      launch.dskip == nullptr ? nullptr : launch.dskip + channel);
}

}  // namespace ssm::cuda::device
