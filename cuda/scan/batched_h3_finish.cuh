// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_parameters.cuh"

namespace ssm::cuda::device {

inline constexpr int kFinishedTogether = kParameterThreads / 32;  // channels' diagonal models

/// Sums of the adjoint walk, a channel and a tile of columns: the gradients of c, b̄ and ā that do
/// not come from K, times the conjugate of c, b̄ or ā.
enum AdjointSum { kSumC, kSumB, kSumA, kAdjointSums };

struct BatchedFinish {
  explicit BatchedFinish(const ssm::H3MixerBackward<BFloat16, CudaSpace>& g)
      : parameters(g.forward),
        dshift_B(operand(g.dshift_B)),
        dshift_C(operand(g.dshift_C)),
        dshift_skip(operand(g.dshift_skip)),
        ddt(operand(g.ddt)),
        dA(operand(g.dA)),
        dB(operand(g.dB)),
        dC(operand(g.dC)),
        dskip(operand(g.dskip)),
        dinitial_shift(operand(g.dinitial_shift)) {}

  BatchedParameters parameters;
  Operand<float, 2> dshift_B, dshift_C;
  Operand<float, 1> dshift_skip, ddt;
  Operand<float, 3> dA, dB, dC;
  Operand<float, 1> dskip;
  Operand<float, 3> dinitial_shift;
  const float2* sums;     // [D, parts, kAdjointSums, kMixerModes]
  const float* taps;      // [D, parts, 16, 16]  outputs' gradients by inputs
  const float* shifts;    // [D, shift_parts, 5, 16, 16]  the shift's, by distance in blocks
  const uint4* dshifted;  // [D, parts, steps, kKeptWords]
  int channels, parts, shift_parts, steps, segments;

  /// A block a channel for the shift, then one for several channels' diagonal models.
  unsigned blocks() const {
    return static_cast<unsigned>(channels + (channels + kFinishedTogether - 1) / kFinishedTogether);
  }
};

/// The diagonal model's gradients of a channel: a warp, a mode a lane.
__device__ inline void finish_diagonal(const BatchedFinish& launch, int channel) {
  __shared__ float dtaps[kFinishedTogether][kBlock];
  const BatchedParameters& p = launch.parameters;
  float(&dtap)[kBlock] = dtaps[threadIdx.x / 32];
  const int n = threadIdx.x % 32;
  const bool present = n < p.modes;
  const Mode m = present ? p.mode(channel, n) : Mode{};
  const double2 c = present ? p.output(channel, n) : double2{0.0, 0.0};
  wait_for_predecessors();
  let_successor_begin();
  {
    const int lag = n / 2, group = n % 2;
    double sum = 0.0;
#pragma unroll 4
    for (int part = 0; part < launch.parts; ++part) {
      const float* const from =
          launch.taps + (static_cast<Index>(channel) * launch.parts + part) * kBlock * kBlock;
#pragma unroll
      for (int i = group; i < kBlock; i += 2)
        if (i >= lag) sum += from[i * kBlock + i - lag];
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (group == 0) dtap[lag] = static_cast<float>(sum);
  }
  __syncwarp();
  const auto adjoint = [](double2 gradient, double2 derivative) {
    return multiply(gradient, double2{derivative.x, -derivative.y});
  };
  double ddt = 0.0;
  if (present) {
    double2 sum[kAdjointSums]{};
#pragma unroll 4
    for (int part = 0; part < launch.parts; ++part)
      for (int i = 0; i < kAdjointSums; ++i) {
        const float2 v =
            launch.sums[((static_cast<Index>(channel) * launch.parts + part) * kAdjointSums + i) *
                            kMixerModes +
                        n];
        sum[i] = {sum[i].x + v.x, sum[i].y + v.y};
      }
    const double step = p.dt(channel);
    const double2 a{p.A(channel, n, 0), p.A(channel, n, 1)};
    const double2 b{p.B(channel, n, 0), p.B(channel, n, 1)};
    const double2 bc = multiply(m.b, c);
    const auto conjugate = [](double2 v) { return double2{v.x, -v.y}; };
    double2 dc = multiply(sum[kSumC], conjugate(reciprocal(c)));
    double2 db = multiply(sum[kSumB], conjugate(reciprocal(m.b)));
    double2 da = sum[kSumA];  // times conj(ā)
    const auto add = [](double2& to, double2 v, double scale) {
      to.x += scale * v.x, to.y += scale * v.y;
    };
    double2 power{1.0, 0.0};
#pragma unroll 1  // as little code as may be: it runs once
    for (int t = 0; t < kBlock; ++t) {
      const double scale = 2.0 * dtap[t];
      const double2 back = conjugate(power);
      add(dc, adjoint(back, m.b), scale);
      add(db, adjoint(back, c), scale);
      add(da, adjoint(back, bc), scale * t);
      power = multiply(power, m.a);
    }
    const double2 da_dz = multiply(m.da_dz, reciprocal(m.a));
    const double2 from_a = adjoint(da, da_dz),
                  from_b = adjoint(db, multiply({step * b.x, step * b.y}, m.dg_dz));
    const double2 dz{from_a.x + from_b.x, from_a.y + from_b.y};
    const double2 dB = adjoint(db, m.gain);
    ddt = adjoint(db, double2{m.b.x / step, m.b.y / step}).x + dz.x * a.x + dz.y * a.y;
    const auto give = [&](const Operand<float, 3>& to, double2 v) {
      if (!to) return;
      to(channel, n, 0) = static_cast<float>(to(channel, n, 0) + v.x);
      to(channel, n, 1) = static_cast<float>(to(channel, n, 1) + v.y);
    };
    give(launch.dC, dc);
    give(launch.dB, dB);
    give(launch.dA, {step * dz.x, step * dz.y});
  }
  for (int lane = 16; lane > 0; lane /= 2) ddt += __shfl_xor_sync(~0u, ddt, lane);
  if (n == 0) {
    if (launch.ddt) launch.ddt(channel) = static_cast<float>(launch.ddt(channel) + ddt);
    if (launch.dskip) launch.dskip(channel) += dtap[0];
  }
}

/// The shift's gradients of a channel: a block.
__device__ inline void finish_shift(const BatchedFinish& launch, int channel) {
  __shared__ ShiftParameters shift;
  __shared__ float part_sum[2][kMixerTaps], dtap[2 * kMixerTaps];
  __shared__ EightStates initial, dshifted;
  const BatchedParameters& p = launch.parameters;
  const int thread = threadIdx.x, side = thread / kMixerTaps, n = thread % kMixerTaps;
  shift.read(p, channel);
  wait_for_predecessors();
  let_successor_begin();
  {
    constexpr int square = kBlock * kBlock;
    const int distance = n / kBlock, rest = n % kBlock;
    double sum = 0.0;
#pragma unroll 4
    for (int part = 0; part < launch.shift_parts; ++part) {
      const float* const from =
          launch.shifts +
          (static_cast<Index>(channel) * launch.shift_parts + part) * (kStepBlocks + 1) * square;
      float of_part = 0.f;
#pragma unroll
      for (int i = 8 * side; i < 8 * side + 8; ++i) {
        const bool same = i >= rest;
        of_part += from[(same ? distance : distance + 1) * square + i * kBlock + i - rest +
                        (same ? 0 : kBlock)];
      }
      sum += of_part;
    }
    part_sum[side][n] = static_cast<float>(sum);
  }
  __syncthreads();
  dtap[thread] = side == 0 ? part_sum[0][n] + part_sum[1][n] : 0.f;
  __syncthreads();
  float gradient = 0.f;  // of B, or of C
  if (side == 0) {
#pragma unroll 8
    for (int j = 0; j < kMixerTaps; ++j) gradient += shift.C[n + j] * dtap[j];
  } else {
#pragma unroll 8
    for (int j = 0; j < kMixerTaps; ++j) gradient += shift.B_at(n - j) * dtap[j];
  }
  if (p.initial_shift || launch.dinitial_shift) {
    float of_initial = 0.f;
    for (int first = 0; first < p.batch; first += kSide) {
      __syncthreads();
      initial.read(p.initial_shift, first, p.batch, channel, p.taps);
#pragma unroll
      for (int i = thread; i < kSide * kMixerTaps; i += kParameterThreads) {
        const int position = i % kMixerTaps, sequence = first + i / kMixerTaps;
        const int column = sequence * launch.segments;
        const int tile = column / kSide, within = column % kSide;
        const int word = position / 8, lane = 4 * (position % 8) + within / 2;
        const auto* const from = reinterpret_cast<const unsigned*>(
            launch.dshifted +
            (static_cast<Index>(channel) * launch.parts + tile) * launch.steps * kKeptWords);
        const unsigned pair = sequence < p.batch ? from[(word / 4 * 32 + lane) * 4 + word % 4] : 0u;
        dshifted.at(position, i / kMixerTaps) = within % 2 == 0 ? low_of(pair) : high_of(pair);
      }
      __syncthreads();
      float4 back{};
#pragma unroll 8
      for (int j = 0; j + 1 < kMixerTaps; ++j) {
        const float4 d = dshifted.value[j][side];
        const float4 x = j < n ? initial.value[n - 1 - j][side] : float4{};
        of_initial += d.x * x.x + d.y * x.y + d.z * x.z + d.w * x.w;
        add_scaled(back, shift.C[n + 1 + j], d);
      }
      if (!launch.dinitial_shift || n >= p.taps) continue;
      for (int i = 0; i < 4; ++i) {
        const int sequence = first + 4 * side + i;
        if (sequence < p.batch) launch.dinitial_shift(sequence, channel, n) = part_of(back, i);
      }
    }
    part_sum[side][n] = of_initial;
    __syncthreads();
    if (side == 1) gradient += part_sum[0][n] + part_sum[1][n];
  }
  if (thread == 0 && launch.dshift_skip) launch.dshift_skip(channel) += dtap[0];
  if (n >= p.taps) return;
  const Operand<float, 2>& to = side == 0 ? launch.dshift_B : launch.dshift_C;
  if (to) to(channel, n) += gradient;
}

/// Adds the parts in order and applies the chain rules. Parameters are read before the walks are
/// done: the last one lets this kernel begin behind its own wait.
static __global__ void __launch_bounds__(kParameterThreads)
    finish_batched_h3(const BatchedFinish launch) {
  const int block = blockIdx.x, channels = launch.channels;
  if (block < channels) return finish_shift(launch, block);
  const int channel = (block - channels) * kFinishedTogether + static_cast<int>(threadIdx.x) / 32;
  if (channel < channels) finish_diagonal(launch, channel);
}

}  // namespace ssm::cuda::device
