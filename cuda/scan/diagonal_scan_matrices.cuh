// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_layout.cuh"

namespace ssm::cuda::device {

/// A mode's recurrence coefficients and what the chain rule needs of them, in double: powers up to
/// 2048 amplify errors.
struct Mode {
  double2 a;      // ā
  double2 b;      // b̄
  double2 gain;   // b̄ / B
  double2 da_dz;  // ∂ā/∂z
  double2 dg_dz;  // ∂gain/∂z / step
};

__host__ __device__ inline double2 reciprocal(double2 v) {
  const double s = 1.0 / (v.x * v.x + v.y * v.y);
  return {v.x * s, -v.y * s};
}

/// Formulas of `Discretization`.
__host__ __device__ inline Mode discretized_mode(Discretization rule, double dt, Complex<float> a,
                                                 Complex<float> b) {
  const double2 z{dt * a.re, dt * a.im}, B{b.re, b.im};
  Mode mode;
  if (rule == Discretization::bilinear) {
    const double2 w = reciprocal({1.0 - 0.5 * z.x, -0.5 * z.y});
    const double2 w2 = multiply(w, w);
    mode.a = multiply({1.0 + 0.5 * z.x, 0.5 * z.y}, w);
    mode.gain = {dt * w.x, dt * w.y};
    mode.da_dz = w2;
    mode.dg_dz = {0.5 * w2.x, 0.5 * w2.y};
  } else {
    const double m = exp(z.x);
    mode.a = {m * cos(z.y), m * sin(z.y)};
    double2 phi, slope;  // φ(z) = (e^z − 1)/z and φ'(z) = (e^z − φ)/z
    if (z.x * z.x + z.y * z.y < 1e-4) {
      // Taylor terms to z^6: the closed forms cancel near zero.
      phi = {1.0 / 5040, 0}, slope = {6.0 / 5040, 0};
      const double inverse[6] = {1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0};
      for (int i = 0; i < 6; ++i) {
        phi = multiply(phi, z);
        phi.x += inverse[i];
        if (i < 5) {
          slope = multiply(slope, z);
          slope.x += (5 - i) * inverse[i];
        }
      }
    } else {
      const double2 r = reciprocal(z);
      phi = multiply({mode.a.x - 1.0, mode.a.y}, r);
      slope = multiply({mode.a.x - phi.x, mode.a.y - phi.y}, r);
    }
    mode.gain = {dt * phi.x, dt * phi.y};
    mode.da_dz = mode.a;
    mode.dg_dz = slope;
  }
  mode.b = multiply(B, mode.gain);
  return mode;
}

/// What a channel's matrices and powers are made of; zeros of a mode that is not there.
struct ModeOf {
  double2 a, b;  // ā, b̄
  float2 c;
};
__device__ inline ModeOf mode_of(const DiagonalScanParameters& p, int modes, int channel,
                                 int mode) {
  if (mode >= modes) return {};
  const long long index = static_cast<long long>(channel) * modes + mode;
  const Mode m = discretized_mode(p.discretization, p.dt[channel], p.a[index], p.b[index]);
  return {m.a, m.b, {p.c[index].re, p.c[index].im}};
}

/// Builds one channel's matrices, table and powers; `count` of the matrices in the order of
/// `Matrix`: none, the first three or all.
/// Cost    about 3·10⁵ operations a channel
template <class T>
__global__ void __launch_bounds__(256)
    build_matrices(DiagonalScanParameters p, int modes, int count, char* workspace) {
  using Layout = ChannelLayout<T>;
  __shared__ float2 power[kPowers][kModes];
  __shared__ float2 input[kModes], output[kModes];
  __shared__ float tap[kChunk];
  const int channel = blockIdx.x, mode = threadIdx.x % kModes, part = threadIdx.x / kModes;
  char* const base = workspace + channel * Layout::bytes;
  float2* const table = reinterpret_cast<float2*>(base + Layout::table_at);
  float2* const powers = reinterpret_cast<float2*>(base + Layout::powers_at);

  const ModeOf m = mode_of(p, modes, channel, mode);
  const double2 a2 = multiply(m.a, m.a), a4 = multiply(a2, a2), a8 = multiply(a4, a4);
  const double2 a16 = multiply(a8, a8), a32 = multiply(a16, a16), a64 = multiply(a32, a32);
  double2 run{1.0, 0.0};
  if (part & 1) run = a8;
  if (part & 2) run = multiply(run, a16);
  if (part & 4) run = multiply(run, a32);
  for (int t = 8 * part; t < 8 * part + 8; ++t) {
    power[t][mode] = {static_cast<float>(run.x), static_cast<float>(run.y)};
    run = multiply(run, m.a);
  }
  const auto narrow = [](double2 v) {
    return float2{static_cast<float>(v.x), static_cast<float>(v.y)};
  };
  if (part == 7) power[kChunk][mode] = narrow(run);
  if (part == 0) {
    input[mode] = narrow(m.b);
    output[mode] = m.c;
  }
  if (part == 1) {
    double2 group = a64;
    for (int r = 1; r < 2 * row_tiles<T>; r *= 2) group = multiply(group, group);
    const double2 group2 = multiply(group, group), group4 = multiply(group2, group2);
    const double2 tile = multiply(group4, group4);
    table[kRow * kTablePitch + mode] = narrow(a64);
    table[(kGroup + 0) * kTablePitch + mode] = narrow(group);
    table[(kGroup + 1) * kTablePitch + mode] = narrow(group2);
    table[(kGroup + 2) * kTablePitch + mode] = narrow(group4);
    table[kTile * kTablePitch + mode] = narrow(tile);
    table[kOne * kTablePitch + mode] = narrow(m.a);
    table[kInput * kTablePitch + mode] = narrow(m.b);
    table[kOutput * kTablePitch + mode] = m.c;
    table[kZero * kTablePitch + mode] = {0.f, 0.f};
    double2 prefix{1.0, 0.0};
    for (int g = 0; g < 8; ++g) {
      table[(kPrefix + g) * kTablePitch + mode] = narrow(prefix);
      prefix = multiply(prefix, group);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kPowers * kModes; i += blockDim.x)
    powers[i] = power[i / kModes][i % kModes];
  if (count == 0) return;
  {
    const int t = threadIdx.x / 4, lane = threadIdx.x % 4;
    float sum = 0.f;
    for (int n = lane; n < kModes; n += 4)
      sum += multiply(multiply(output[n], input[n]), power[t][n]).x;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (lane == 0) tap[t] = 2.f * sum;
  }
  __syncthreads();

  const auto lift = [&](int position, int state) {
    const float2 v = multiply(input[state / 2], power[kChunk - 1 - position][state / 2]);
    return state & 1 ? v.y : v.x;
  };
  const auto lower = [&](int state, int position) {
    const float2 v = multiply(output[state / 2], power[position + 1][state / 2]);
    return state & 1 ? -2.f * v.y : 2.f * v.x;
  };
  for (int word = threadIdx.x; word < 4 * kFragmentWords; word += blockDim.x) {
    const int reg = word % 4, lane = word / 4 % 32, step = word / 128 % 4, pair = word / 512;
    const int tile = 2 * pair + reg / 2, column = lane / 4;
    const int k = 2 * (lane % 4) + 8 * (reg % 2);
    const int from = input_position(step, k), to = output_position(tile, column);
    const int from_state = 16 * step + k, to_state = 8 * tile + column;
    const auto write = [&](int matrix, float low, float high) {
      unsigned pairs[Layout::terms];
      split_bf16(low, high, pairs);
      unsigned* out = reinterpret_cast<unsigned*>(base + matrix * Layout::matrix_bytes);
#pragma unroll
      for (int t = 0; t < Layout::terms; ++t) out[t * 4 * kFragmentWords + word] = pairs[t];
    };
    write(kLift, lift(from, to_state), lift(from + 1, to_state));
    write(kToeplitz, to >= from ? tap[to - from] : 0.f, to >= from + 1 ? tap[to - from - 1] : 0.f);
    write(kLower, lower(from_state, to), lower(from_state + 1, to));
    if (count > 3) {
      write(kRaise, lower(to_state, from), lower(to_state, from + 1));
      write(kBackward, from >= to ? tap[from - to] : 0.f,
            from + 1 >= to ? tap[from + 1 - to] : 0.f);
      write(kSpread, lift(to, from_state), lift(to, from_state + 1));
    }
  }
}

}  // namespace ssm::cuda::device
