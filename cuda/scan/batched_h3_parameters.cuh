// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_layout.cuh"
#include "scan/diagonal_scan_matrices.cuh"

namespace ssm::cuda::device {

inline constexpr int kParameterThreads = 128;
inline constexpr double kLeastPower = 1e-20;

/// Parameters and states of a call as kernels index them.
struct BatchedParameters {
  explicit BatchedParameters(const ssm::H3Mixer<BFloat16, CudaSpace>& a)
      : shift_B(operand(a.shift_B)),
        shift_C(operand(a.shift_C)),
        shift_skip(operand(a.shift_skip)),
        dt(operand(a.dt)),
        A(operand(a.A)),
        B(operand(a.B)),
        C(operand(a.C)),
        skip(operand(a.skip)),
        initial_shift(operand(a.initial_shift)),
        discretization(a.discretization),
        taps(static_cast<int>(a.shift_B.extent(1))),
        modes(static_cast<int>(a.A.extent(1))),
        batch(static_cast<int>(a.q.extent(0))),
        length(static_cast<int>(a.q.extent(1))) {}

  /// ā may be too small a number to divide by, as gradients do: then it is as good as zero.
  __device__ Mode mode(int channel, int n) const {
    Mode m = discretized_mode(discretization, dt(channel), {A(channel, n, 0), A(channel, n, 1)},
                              {B(channel, n, 0), B(channel, n, 1)});
    if (m.a.x * m.a.x + m.a.y * m.a.y < kLeastPower * kLeastPower) m.a = {kLeastPower, 0.0};
    return m;
  }

  Operand<const float, 2> shift_B, shift_C;
  Operand<const float, 1> shift_skip, dt;
  Operand<const float, 3> A, B, C;
  Operand<const float, 1> skip;
  Operand<const float, 3> initial_shift;
  Discretization discretization;
  int taps, modes, batch, length;
};

struct BatchedPreparation {
  BatchedParameters parameters;
  ForwardMatrices* forward;
  AdjointMatrices* adjoint;  // null: not wanted
  TapMatrix* adjoint_taps;   // [i, j] = tap_{j−i}
  float* history;            // [D, S, 64], where there is an initial shift state
  Operand<const BFloat16, 3> k;
  Operand<float, 3> final_shift;
};

/// A channel's matrices, and what its shift states do outside the walks: one block a channel.
/// Cost    10^5 operations a channel and 2·10³ a sequence
static __global__ void __launch_bounds__(kParameterThreads)
    prepare_batched_h3(const BatchedPreparation launch) {
  __shared__ float2 power[kBlock + 1][kMixerModes], input[kMixerModes], output[kMixerModes];
  __shared__ float tap[kBlock], shift_tap[kMixerTaps];
  __shared__ float shift_B[kMixerTaps], shift_C[2 * kMixerTaps];
  __shared__ float initial[2][kMixerTaps], keys[2][kMixerTaps];
  const BatchedParameters& p = launch.parameters;
  const int channel = blockIdx.x, thread = threadIdx.x;
  if (thread < kMixerModes) {
    const bool present = thread < p.modes;
    const Mode m = present ? p.mode(channel, thread) : Mode{};
    double2 run{1.0, 0.0};
    for (int i = 0; i <= kBlock; ++i) {
      power[i][thread] = {static_cast<float>(run.x), static_cast<float>(run.y)};
      run = multiply(run, m.a);
    }
    input[thread] = {static_cast<float>(m.b.x), static_cast<float>(m.b.y)};
    output[thread] =
        present ? float2{p.C(channel, thread, 0), p.C(channel, thread, 1)} : float2{0.f, 0.f};
  }
  if (thread < kMixerTaps) shift_B[thread] = thread < p.taps ? p.shift_B(channel, thread) : 0.f;
  shift_C[thread] = thread < p.taps ? p.shift_C(channel, thread) : 0.f;
  __syncthreads();
  {
    const int t = thread / 8, part = thread % 8;
    float sum = 0.f;
    for (int n = part; n < kMixerModes; n += 8)
      sum += multiply(multiply(output[n], input[n]), power[t][n]).x;
    for (int lane = 1; lane < 8; lane *= 2) sum += __shfl_xor_sync(~0u, sum, lane);
    if (part == 0) tap[t] = 2.f * sum;
  }
  {
    const int lag = thread / 2, part = thread % 2;
    float sum = 0.f;
#pragma unroll 8
    for (int j = part; j < kMixerTaps; j += 2) sum += shift_B[j] * shift_C[j + lag];
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (part == 0) shift_tap[lag] = sum + (lag == 0 ? p.shift_skip(channel) : 0.f);
  }
  __syncthreads();

  ForwardMatrices& forward = launch.forward[channel];
  const auto write = [](StateMatrix* terms, int count, int word, float low, float high) {
    unsigned pairs[2];
    split_bf16(low, high, pairs);
    for (int t = 0; t < count; ++t) reinterpret_cast<unsigned*>(terms[t].fragment)[word] = pairs[t];
  };
  for (int word = thread; word < 4 * 32 * kModeTiles; word += kParameterThreads) {
    const int reg = word % 4, lane = word / 4 % 32, tile = word / 128, g = lane / 4, q = lane % 4;
    // The two ways that a tile may lie: states by positions, and positions by states.
    const int position = 2 * q + 8 * (reg / 2), n = 8 * tile + g;
    const bool imaginary = reg % 2 == 1;
    const auto part = [&](float2 x) { return imaginary ? x.y : x.x; };
    const auto reach = [&](int j) { return power[kBlock - 1 - j][n]; };
    const auto lift = [&](int j) { return part(multiply(input[n], reach(j))); };
    write(forward.lift, 2, word, lift(position), lift(position + 1));
    const int to = g + 8 * (reg % 2), from = 8 * tile + 2 * q;
    const bool from_imaginary = reg / 2 == 1;
    const auto lower = [&](int mode) {
      const float2 v = multiply(output[mode], power[to + 1][mode]);
      return from_imaginary ? -2.f * v.y : 2.f * v.x;
    };
    write(&forward.lower, 1, word, lower(from), lower(from + 1));
    if (launch.adjoint == nullptr) continue;
    AdjointMatrices& adjoint = launch.adjoint[channel];
    write(adjoint.reach, 2, word, part(reach(position)), part(reach(position + 1)));
    write(adjoint.raise, 2, word, part(conjugate(power[position + 1][n])),
          part(conjugate(power[position + 2][n])));
    const auto spread = [&](int mode) {
      const float2 v = multiply(input[mode], power[kBlock - 1 - to][mode]);
      return from_imaginary ? v.y : v.x;
    };
    write(&adjoint.spread, 1, word, spread(from), spread(from + 1));
  }
  const auto tap_at = [&](int lag) { return lag >= 0 && lag < kBlock ? tap[lag] : 0.f; };
  const auto shift_at = [&](int lag) {
    return lag >= 0 && lag < kMixerTaps ? shift_tap[lag] : 0.f;
  };
  for (int word = thread; word < 32 * kTapWords; word += kParameterThreads) {
    const int h = word / 32, lane = word % 32, lag = 8 * h + lane / 4 - 2 * (lane % 4),
              lead = 8 * h - lane / 4 + 2 * (lane % 4);
    unsigned pairs[2];
    split_bf16(shift_at(lag), shift_at(lag - 1), pairs);
    for (int t = 0; t < 2; ++t) forward.taps.word[t][h][lane] = pairs[t];
    if (h < 2) forward.toeplitz[h][lane] = pack_bf16(tap_at(lag), tap_at(lag - 1));
    if (launch.adjoint == nullptr) continue;
    split_bf16(shift_at(lead), shift_at(lead + 1), pairs);
    for (int t = 0; t < 2; ++t) launch.adjoint_taps[channel].word[t][h][lane] = pairs[t];
    if (h < 2)
      launch.adjoint[channel].toeplitz[h][lane] = pack_bf16(tap_at(lead), tap_at(lead + 1));
  }
  const float skip = p.skip ? p.skip(channel) : 0.f;
  if (thread < kMixerModes) forward.power[thread] = power[kBlock][thread];
  if (thread == 0) forward.skip = skip;
  if (launch.adjoint != nullptr) {
    AdjointMatrices& adjoint = launch.adjoint[channel];
    if (thread < kMixerModes) {
      adjoint.power[thread] = power[kBlock][thread];
      adjoint.input[thread] = input[thread];
      adjoint.output[thread] = output[thread];
    }
    if (thread == 0) adjoint.skip = skip;
  }

  const bool has_initial = static_cast<bool>(p.initial_shift);
  if (!has_initial && !launch.final_shift) return;
  const int side = thread / kMixerTaps, n = thread % kMixerTaps;
  for (int first = 0; first < p.batch; first += 2) {
    const int sequence = first + side;
    const bool there = sequence < p.batch;
    __syncthreads();
    initial[side][n] =
        has_initial && there && n < p.taps ? p.initial_shift(sequence, channel, n) : 0.f;
    // The last positions, the last one first.
    keys[side][n] = launch.final_shift && there && n < p.length
                        ? to_float(launch.k(sequence, p.length - 1 - n, channel))
                        : 0.f;
    __syncthreads();
    if (!there) continue;
    if (has_initial) {
      float sum = 0.f;
#pragma unroll 8
      for (int j = 0; j < kMixerTaps - 1; ++j) sum += shift_C[j + 1 + n] * initial[side][j];
      launch.history[(static_cast<Index>(channel) * p.batch + sequence) * kMixerTaps + n] = sum;
    }
    if (launch.final_shift && n < p.taps) {
      float sum = n >= p.length ? initial[side][n - p.length] : 0.f;
      for (int j = 0; j <= n; ++j) sum += shift_B[n - j] * keys[side][j];
      launch.final_shift(sequence, channel, n) = sum;
    }
  }
}

/// States at the ends of the segments of one sequence.
struct BatchedJoin {
  BatchedParameters parameters;
  Columns columns;
  Operand<float, 4> states;  // [columns, D, P, 2]  what each adds; then what each starts from
  Operand<const float, 4> first;
  Operand<float, 4> last;  // [S, D, P, 2], either may be missing
};

/// Joins segments, forwards or, with conjugate powers, backwards: one warp a channel.
template <bool Reverse>
__global__ void __launch_bounds__(kMixerModes) join_batched_h3(const BatchedJoin launch) {
  const BatchedParameters& p = launch.parameters;
  const int channel = blockIdx.x, n = threadIdx.x, segments = launch.columns.segments;
  if (n >= p.modes) return;
  double2 power{1.0, 0.0}, square = p.mode(channel, n).a;
  for (int rest = launch.columns.length; rest > 0; rest /= 2) {
    if (rest % 2 == 1) power = multiply(power, square);
    square = multiply(square, square);
  }
  const float2 a{static_cast<float>(power.x), static_cast<float>(Reverse ? -power.y : power.y)};
  for (int sequence = 0; sequence < launch.columns.sequences; ++sequence) {
    float2 state{0.f, 0.f};
    if (launch.first)
      state = {launch.first(sequence, channel, n, 0), launch.first(sequence, channel, n, 1)};
    for (int i = 0; i < segments; ++i) {
      const int column = sequence * segments + (Reverse ? segments - 1 - i : i);
      float& re = launch.states(column, channel, n, 0);
      float& im = launch.states(column, channel, n, 1);
      const float2 added{re, im};
      re = state.x, im = state.y;
      state = multiply_add(a, state, added);
    }
    if (!launch.last) continue;
    launch.last(sequence, channel, n, 0) = state.x;
    launch.last(sequence, channel, n, 1) = state.y;
  }
}

/// Sums of the adjoint walk, a channel and a tile of columns. With s the state before a block, r
/// its adjoint after it, e and w what inputs and outputs' gradients are to reach and raise, and
/// e' and w' the same with position j times 15 − j and position i times i + 1:
enum AdjointSum {
  kStateOutputs,
  kInputAdjoints,
  kStateAdjoints,
  kSlopeAdjoints,
  kStateSlopes,
  kAdjointSums
};  // s̄·w, ē·r, s̄·r, ē'·r, s̄·w'

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
  int parts, shift_parts, steps, segments;
};

/// Adds the parts in order and applies the chain rules: one block a channel.
static __global__ void __launch_bounds__(kParameterThreads)
    finish_batched_h3(const BatchedFinish launch) {
  __shared__ float dtap[kBlock], dshift_tap[kMixerTaps];
  __shared__ float shift_B[2 * kMixerTaps], shift_C[2 * kMixerTaps];
  __shared__ float dshifted[2][kMixerTaps], initial[2][kMixerTaps];
  const BatchedParameters& p = launch.parameters;
  const int channel = blockIdx.x, thread = threadIdx.x;
  constexpr int square = kBlock * kBlock;
  if (thread < kMixerTaps) {
    const int lag = thread, distance = lag / kBlock, rest = lag % kBlock;
    double sum = 0.0;
    for (int part = 0; part < launch.shift_parts; ++part) {
      const float* const from =
          launch.shifts + (static_cast<Index>(channel) * launch.shift_parts + part) * 5 * square;
      for (int i = 0; i < kBlock; ++i)
        sum += i >= rest ? from[distance * square + i * kBlock + i - rest]
                         : from[(distance + 1) * square + i * kBlock + i - rest + kBlock];
    }
    dshift_tap[lag] = static_cast<float>(sum);
  } else if (thread < kMixerTaps + kBlock) {
    const int lag = thread - kMixerTaps;
    double sum = 0.0;
    for (int part = 0; part < launch.parts; ++part)
      for (int i = lag; i < kBlock; ++i)
        sum += launch.taps[(static_cast<Index>(channel) * launch.parts + part) * square +
                           i * kBlock + i - lag];
    dtap[lag] = static_cast<float>(sum);
  }
  shift_B[thread] = thread < p.taps ? p.shift_B(channel, thread) : 0.f;
  shift_C[thread] = thread < p.taps ? p.shift_C(channel, thread) : 0.f;
  __syncthreads();

  if (thread < kMixerModes) {
    const int n = thread;
    const auto adjoint = [](double2 gradient, double2 derivative) {
      return multiply(gradient, double2{derivative.x, -derivative.y});
    };
    double ddt = 0.0;
    if (n < p.modes) {
      double2 sum[kAdjointSums]{};
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
      const double2 c{p.C(channel, n, 0), p.C(channel, n, 1)};
      const Mode m = p.mode(channel, n);
      const double2 bc = multiply(m.b, c);
      double2 dc{2 * sum[kStateOutputs].x, 2 * sum[kStateOutputs].y};
      double2 db = sum[kInputAdjoints];
      double2 da{0.0, 0.0};  // times conj(ā)
      const auto add = [](double2& to, double2 v, double scale) {
        to.x += scale * v.x, to.y += scale * v.y;
      };
      double2 power{1.0, 0.0};
      for (int t = 0; t < kBlock; ++t) {
        const double scale = 2.0 * dtap[t];
        const double2 conjugate{power.x, -power.y};
        add(dc, adjoint(conjugate, m.b), scale);
        add(db, adjoint(conjugate, c), scale);
        add(da, adjoint(conjugate, bc), scale * t);
        power = multiply(power, m.a);
      }
      add(da, adjoint(sum[kStateAdjoints], power), kBlock);
      add(da, adjoint(sum[kSlopeAdjoints], m.b), 1.0);
      add(da, adjoint(sum[kStateSlopes], c), 2.0);
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
      if (launch.dshift_skip) launch.dshift_skip(channel) += dshift_tap[0];
    }
  }

  const int side = thread / kMixerTaps, n = thread % kMixerTaps;
  double dB = 0.0, dC = 0.0;
  if (side == 1) {
    for (int j = 0; j < kMixerTaps - n; ++j) dB += double{shift_C[n + j]} * dshift_tap[j];
    for (int j = 0; j <= n; ++j) dC += double{shift_B[n - j]} * dshift_tap[j];
  }
  if (p.initial_shift || launch.dinitial_shift) {
    for (int first = 0; first < p.batch; first += 2) {
      const int sequence = first + side;
      const bool there = sequence < p.batch;
      __syncthreads();
      initial[side][n] =
          p.initial_shift && there && n < p.taps ? p.initial_shift(sequence, channel, n) : 0.f;
      {
        const int column = sequence * launch.segments;
        const int tile = column / kSide, within = column % kSide;
        const int word = n / 8, lane = 4 * (n % 8) + within / 2;
        const auto* const from = reinterpret_cast<const unsigned*>(
            launch.dshifted +
            (static_cast<Index>(channel) * launch.parts + tile) * launch.steps * kKeptWords);
        const unsigned pair = there ? from[(word / 4 * 32 + lane) * 4 + word % 4] : 0u;
        dshifted[side][n] = within % 2 == 0 ? low_of(pair) : high_of(pair);
      }
      __syncthreads();
      if (launch.dinitial_shift && there && n < p.taps) {
        float sum = 0.f;
        for (int j = 0; n + 1 + j < kMixerTaps; ++j) sum += shift_C[n + 1 + j] * dshifted[side][j];
        launch.dinitial_shift(sequence, channel, n) = sum;
      }
      if (side == 1)
        for (int s = 0; s < 2; ++s)
          for (int j = 0; j < n; ++j) dC += double{dshifted[s][j]} * initial[s][n - 1 - j];
    }
  }
  if (side == 1 && n < p.taps) {
    if (launch.dshift_B)
      launch.dshift_B(channel, n) = static_cast<float>(launch.dshift_B(channel, n) + dB);
    if (launch.dshift_C)
      launch.dshift_C(channel, n) = static_cast<float>(launch.dshift_C(channel, n) + dC);
  }
}

}  // namespace ssm::cuda::device
