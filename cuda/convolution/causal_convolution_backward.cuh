// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/causal_convolution.cuh"

namespace ssm::cuda::device {

template <class T>
struct ConvolutionBackwardLaunch {
  CausalConvolutionBackward<T> call;
  const char* spectrum;
  const float* unscale;
  char* inputs;  // [D, Spectrum::bytes]  spectrum of the pair a block is at
};

/// Both gradients of a block's inputs, over all pairs of sequences of channel blockIdx.x.
///   du = irfft(dY · conj(K)),  dkernel = Σ_b irfft(dY · conj(U))
/// With sequences b and b + 1 as real and imaginary part, the real part of conj(U)·dY's inverse is
/// the sum of both sequences' kernel gradients, if both have one scale.
template <class P, class T>
__global__ void __launch_bounds__(P::threads, 1)
    convolve_backward(const ConvolutionBackwardLaunch<T> launch) {
  constexpr int tiles = P::last_tiles / P::warps;
  extern __shared__ char shared[];
  const Stages<P> s = make_stages<P>(shared);
  const CausalConvolutionBackward<T>& call = launch.call;
  const int channel = blockIdx.x, pairs = (call.batch + 1) / 2, warp = threadIdx.x / 32;
  const char* const filter = launch.spectrum + channel * Spectrum<P>::bytes;
  char* const inputs = launch.inputs + channel * Spectrum<P>::bytes;
  const float unscale = launch.unscale[channel];
  float gradient[tiles][P::R3 / 4][4] = {};
  float dskip = 0.f;
  for (int pair = 0; pair < pairs; ++pair) {
    const auto x = pair_of(call.x, pair, call.batch, channel);
    const auto dy = pair_of(call.dy, pair, call.batch, channel);
    const auto dx = pair_of(call.dx, pair, call.batch, channel);
    const auto gate_in = pair_of(call.gate_in, pair, call.batch, channel);
    const auto gate_out = pair_of(call.gate_out, pair, call.batch, channel);
    const auto dgate_in = pair_of(call.dgate_in, pair, call.batch, channel);
    const auto dgate_out = pair_of(call.dgate_out, pair, call.batch, channel);
    const bool whole = has_whole_runs(x, call.length) && has_whole_runs(dy, call.length) &&
                       has_whole_runs(dx, call.length) && has_whole_runs(gate_in, call.length) &&
                       has_whole_runs(gate_out, call.length) &&
                       has_whole_runs(dgate_in, call.length) &&
                       has_whole_runs(dgate_out, call.length);
    float v[2][2][8];
    load_rows<P>(v, x, call.length, whole);
    multiply_rows<P>(v, gate_in, call.length, whole);
    float2 largest = block_magnitude<P, false>(v, s.scratch);
    const float input_scale = range_scale(fmaxf(largest.x, largest.y));
    transform(s, v, {input_scale, input_scale});
    prefetch_rows<P>(call.dy, pair, call.batch, channel, call.length);
    prefetch_rows<P>(call.gate_out, pair, call.batch, channel, call.length);
#pragma unroll 1
    for (int tile = warp; tile < P::last_tiles; tile += P::warps) {
      float sum[P::R3 / 4][4];
      third_stage(s, tile, sum);
      store_spectrum<P>(inputs, tile, sum, 1.f);
      if (gate_out.row[0] != nullptr) {
        apply_filter<P, false>(sum, filter, tile);
        third_stage_back(s, tile, sum);
      }
    }
    float2 out[2][8];
    if (gate_out.row[0] != nullptr) {
      transform_back(s, out);
      unpack_rows(v, out, {unscale / input_scale, unscale / input_scale});
      multiply_rows<P>(v, dy, call.length, whole);
      store_rows<P>(v, dgate_out, call.length, whole);
    }
    __syncthreads();

    load_rows<P>(v, dy, call.length, whole);
    multiply_rows<P>(v, gate_out, call.length, whole);
    largest = block_magnitude<P, false>(v, s.scratch);
    const float output_scale = range_scale(fmaxf(largest.x, largest.y));
    transform(s, v, {output_scale, output_scale});
    prefetch_rows<P>(call.x, pair + 1, call.batch, channel, call.length);
    prefetch_rows<P>(call.gate_in, pair + 1, call.batch, channel, call.length);
    const float factor = 1.f / (input_scale * output_scale);
#pragma unroll
    for (int i = 0; i < tiles; ++i) {
      const int tile = warp + i * P::warps;
      float sum[P::R3 / 4][4];
      third_stage(s, tile, sum);
#pragma unroll
      for (int j = 0; j < P::R3 / 8; ++j) {
        float2 u[2][2];
        Spectrum<P>::load(inputs, tile, j, u);
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float* const d = &sum[2 * j + h][2 * half];
            const float2 product = multiply(conjugate(u[h][half]), float2{d[0], d[1]});
            gradient[i][2 * j + h][2 * half] += factor * product.x;
            gradient[i][2 * j + h][2 * half + 1] += factor * product.y;
          }
      }
      apply_filter<P, true>(sum, filter, tile);
      third_stage_back(s, tile, sum);
    }
    transform_back(s, out);
    unpack_rows(v, out, {unscale / output_scale, unscale / output_scale});
    if (dgate_in.row[0] != nullptr) {
      float product[2][2][8];
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int row = 0; row < 2; ++row)
#pragma unroll
          for (int c = 0; c < 8; ++c) product[i][row][c] = v[i][row][c];
      multiply_rows<P>(product, x, call.length, whole);
      store_rows<P>(product, dgate_in, call.length, whole);
      multiply_rows<P>(v, gate_in, call.length, whole);
    }
    store_rows<P>(v, dx, call.length, whole);
    __syncthreads();
  }

  // The kernel's gradient goes back by the same stages; skip was part of tap 0, so its gradient is
  // that tap's.
  float largest = 0.f;
#pragma unroll
  for (int i = 0; i < tiles; ++i)
#pragma unroll
    for (int j = 0; j < P::R3 / 4; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) largest = fmaxf(largest, fabsf(gradient[i][j][k]));
  for (int lane = 16; lane > 0; lane /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lane));
  if (threadIdx.x % 32 == 0) s.scratch[warp] = largest;
  __syncthreads();
  for (int w = 0; w < P::warps; ++w) largest = fmaxf(largest, s.scratch[w]);
  const float scale = range_scale(largest);
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
#pragma unroll
    for (int j = 0; j < P::R3 / 4; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) gradient[i][j][k] *= scale;
    third_stage_back(s, warp + i * P::warps, gradient[i]);
  }
  float2 out[2][8];
  transform_back(s, out);
  const float back = 1.f / (scale * P::gain);
  const int taps = min(call.taps, call.length);
#pragma unroll
  for (int row = 0; row < 2; ++row)
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const int tap = lane_position<P>(row) + c;
      if (tap < taps)
        call.dkernel[static_cast<long long>(channel) * call.taps + tap] += back * out[row][c].x;
      if (tap == 0) dskip = back * out[row][c].x;
    }
  if (threadIdx.x == 0 && call.dskip != nullptr) call.dskip[channel] += dskip;
}

}  // namespace ssm::cuda::device
