// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/right_angle_convolution.cuh"

namespace ssm::cuda::device {

// The kernel's gradient. With ds = gate_out ⊙ dy and r its reverse, which begins at the end of the
// transform,
//   dkernel_τ = Σ_b (u_b * r_b)_{M−1−τ}
// so that the products of the spectra of u_b and r_b are summed, in order, and transformed back
// once per channel.

/// The last stage of the inverse, of a block's first sequence; adds `unscale` times it, backwards
/// in time, to a channel's gradient, and tap 0 to dskip if there is one.
template <class P>
__device__ inline void add_kernel_gradient(const RightAngleStages<P>& s, float unscale, int taps,
                                           float* dkernel, float* dskip) {
  if (s.group() > 0) return;
  s.last_of_real([](float a, float b) { return pack_half(a, b); });
  __syncwarp();
  using Runs = LaneRuns<P, true>;
  const Runs runs(taps);
#pragma unroll
  for (int i = 0; i < Runs::runs; ++i) {
    const int at = runs.at(i), count = taps - at;
    const uint4 run = reversed(load_run(Runs::address(s.data, i)));
    const unsigned word[4] = {run.x, run.y, run.z, run.w};
    const bool full = count >= 8 && is_aligned(dkernel + at);
    float sum[8], v[8];
    load_eight(dkernel + at, count, full, sum);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float2 pair = unpack_half(word[c]);
      v[2 * c] = unscale * pair.x, v[2 * c + 1] = unscale * pair.y;
    }
    if (at == 0 && dskip != nullptr) *dskip += v[0];
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[c] += v[c];
    store_eight(dkernel + at, count, full, sum);
  }
}

struct RightAngleGradientLaunch : KernelGradientLaunch {
  const char* tables;
};

/// The kernel's gradient of channel blockIdx.x. Half of the block's sequences are u, half r of the
/// same; a warp sums the products of its k1 in registers.
template <class P, bool Gated>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    correlate_right_angle(const RightAngleGradientLaunch launch) {
  static_assert(P::tiles == 1 && P::Groups % 2 == 0);
  constexpr int pairs = P::Groups / 2, sets = P::N3 / 16;
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(aligned_shared, launch.tables);
  using Points = typename RightAngleStages<P>::Points;
  float* const scratch = reinterpret_cast<float*>(aligned_shared + P::scratch_at);
  const int channel = blockIdx.x, side = s.group() / pairs;
  const auto of = [&](const Sequences<const BFloat16>& tensor, int b) {
    return tensor.data == nullptr
               ? nullptr
               : tensor.data + b * tensor.batch_stride + channel * tensor.channel_stride;
  };
  float2 gradient[P::slabs][sets][2][4] = {};
  GatedRuns<Gated> inputs;
  const auto read = [&](auto runs, const Sequences<const BFloat16>& tensor,
                        const Sequences<const BFloat16>& gates, int b) {
    const BFloat16* const x = of(tensor, b);
    const BFloat16* const gate = Gated ? of(gates, b) : nullptr;
    const bool whole = launch.length % 8 == 0 && is_aligned(x) && is_aligned(gate);
    runs.load(inputs.x, x, whole);
    inputs.load_gate(runs, gate, whole);
    if (b + pairs >= launch.batch) return;
    runs.prefetch_lines(of(tensor, b + pairs));
    if (gate != nullptr) runs.prefetch_lines(of(gates, b + pairs));
  };
  for (int first = 0; first < launch.batch; first += pairs) {
    const int b = first + s.group() % pairs, left = b < launch.batch ? launch.length : 0;
    if (side == 0) {
      read(LaneRuns<P, false>(left), launch.x, launch.gate_in, b);
    } else {
      read(LaneRuns<P, true>(left), launch.dy, launch.gate_out, b);
    }
    const float scale = range_powers(sequence_magnitude<false, P>(inputs.largest(), scratch)).x;
    if (side == 0) {
      LaneRuns<P, false>::store_halves(s.own_data(), inputs, scale);
    } else {
      LaneRuns<P, true>::store_halves(s.own_data(), inputs, scale);
    }
    float factor[pairs];
#pragma unroll
    for (int i = 0; i < pairs; ++i)
      factor[i] = range_powers(magnitude_of<false, P>(scratch, i)).y *
                  range_powers(magnitude_of<false, P>(scratch, pairs + i)).y;
    s.first_of_real();
    __syncthreads();
#pragma unroll
    for (int j = 0; j < P::slabs; ++j) {
      const int k1 = threadIdx.x / 32 + P::all_warps * j;
      const Points w = s.twiddles_of(k1, 0);
      s.template second<false, P::Groups>(k1);
      const Right16 matrix = s.third_matrix();
#pragma unroll
      for (int i = 0; i < pairs; ++i) {
        Points u;
        s.third(s.data_of(i), k1, 0, w, matrix,
                [&](int set, int half, const float(&re)[4], const float(&im)[4]) {
                  u.v[set][0][2 * half] = pack_half(re[0], re[1]);
                  u.v[set][0][2 * half + 1] = pack_half(re[2], re[3]);
                  u.v[set][1][2 * half] = pack_half(im[0], im[1]);
                  u.v[set][1][2 * half + 1] = pack_half(im[2], im[3]);
                });
        s.third(s.data_of(pairs + i), k1, 0, w, matrix,
                [&](int set, int half, const float(&re)[4], const float(&im)[4]) {
#pragma unroll
                  for (int k = 0; k < 4; k += 2) {
                    const float2 a = unpack_half(u.v[set][0][2 * half + k / 2]);
                    const float2 c = unpack_half(u.v[set][1][2 * half + k / 2]);
                    const float2 low = multiply(float2{a.x, c.x}, float2{re[k], im[k]});
                    const float2 high = multiply(float2{a.y, c.y}, float2{re[k + 1], im[k + 1]});
                    float2(&sum)[4] = gradient[j][set][half];
                    sum[k] = {fmaf(factor[i], low.x, sum[k].x), fmaf(factor[i], low.y, sum[k].y)};
                    sum[k + 1] = {fmaf(factor[i], high.x, sum[k + 1].x),
                                  fmaf(factor[i], high.y, sum[k + 1].y)};
                  }
                });
      }
    }
    __syncthreads();
  }

  float largest = 0.f;
#pragma unroll
  for (int j = 0; j < P::slabs; ++j)
#pragma unroll
    for (int i = 0; i < 8 * sets; ++i) {
      const float2 v = gradient[j][i / 8][i / 4 % 2][i % 4];
      largest = fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y)));
    }
  sequence_magnitude<false, P>(largest, scratch);
  largest = 0.f;
#pragma unroll
  for (int i = 0; i < P::Groups; ++i) largest = fmaxf(largest, magnitude_of<false, P>(scratch, i));
  const float2 scale = range_powers(largest);
#pragma unroll
  for (int j = 0; j < P::slabs; ++j) {
    const int k1 = threadIdx.x / 32 + P::all_warps * j;
    Points x;
#pragma unroll
    for (int i = 0; i < 4 * sets; ++i) {
      const int set = i / 4, half = i / 2 % 2, k = 2 * (i % 2);
      const float2 a = gradient[j][set][half][k], c = gradient[j][set][half][k + 1];
      x.v[set][0][i % 4] = pack_half(scale.x * a.x, scale.x * c.x);
      x.v[set][1][i % 4] = pack_half(scale.x * a.y, scale.x * c.y);
    }
    s.third_back(s.data, k1, 0, s.twiddles_of(k1, 0), s.third_matrix(), x);
    __syncwarp();
    s.template second<true, 1>(k1);
  }
  __syncthreads();
  add_kernel_gradient(s, scale.y * (1.f / (P::length * P::gain * P::gain * P::gain)),
                      min(launch.taps, launch.length),
                      launch.dkernel + static_cast<long long>(channel) * launch.taps,
                      launch.dskip == nullptr ? nullptr : launch.dskip + channel);
}

}  // namespace ssm::cuda::device
