// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/launch.cuh"
#include "scan/batched_h3_layout.cuh"
#include "scan/diagonal_scan_matrices.cuh"

namespace ssm::cuda::device {

inline constexpr int kParameterThreads = 128;
inline constexpr double kLeast = 1e-20;

/// Gradients are divided by c, b̄ and ā. What is too small a number for that is as good as zero.
__device__ inline double2 divisor(double2 v) {
  return v.x * v.x + v.y * v.y < kLeast * kLeast ? double2{kLeast, 0.0} : v;
}

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

  __device__ Mode mode(int channel, int n) const {
    Mode m = discretized_mode(discretization, dt(channel), {A(channel, n, 0), A(channel, n, 1)},
                              {B(channel, n, 0), B(channel, n, 1)});
    m.a = divisor(m.a), m.b = divisor(m.b);
    return m;
  }
  __device__ double2 output(int channel, int n) const {
    return divisor({C(channel, n, 0), C(channel, n, 1)});
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

/// The parameters of a channel's shift, and states of eight sequences, in shared memory. Zeros make
/// sums of a fixed number of terms of them.
struct ShiftParameters {
  float B[2 * kMixerTaps];  // from 64 places before the first one on
  float C[2 * kMixerTaps];

  __device__ void read(const BatchedParameters& p, int channel) {
    const int n = threadIdx.x;
    B[n] = n >= kMixerTaps && n - kMixerTaps < p.taps ? p.shift_B(channel, n - kMixerTaps) : 0.f;
    C[n] = n < p.taps ? p.shift_C(channel, n) : 0.f;
  }
  __device__ float B_at(int n) const { return B[kMixerTaps + n]; }
};
struct EightStates {
  float4 value[kMixerTaps][2];

  __device__ float& at(int n, int sequence) {
    return reinterpret_cast<float*>(&value[n][sequence / 4])[sequence % 4];
  }
  __device__ void read(const Operand<const float, 3>& from, int first, int sequences, int channel,
                       int taps) {
#pragma unroll
    for (int i = threadIdx.x; i < kSide * kMixerTaps; i += kParameterThreads) {
      const int n = i % kMixerTaps, sequence = first + i / kMixerTaps;
      at(n, i / kMixerTaps) =
          from && sequence < sequences && n < taps ? from(sequence, channel, n) : 0.f;
    }
  }
};
__device__ inline void add_scaled(float4& sum, float scale, const float4& x) {
  sum = {sum.x + scale * x.x, sum.y + scale * x.y, sum.z + scale * x.z, sum.w + scale * x.w};
}
__device__ inline float part_of(const float4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/// What a channel's shift states do outside the walks: history and final_shift.
/// Cost    8·10³ operations a sequence
__device__ inline void carry_shift_states(const BatchedPreparation& launch) {
  __shared__ ShiftParameters shift;
  __shared__ EightStates initial, keys;  // keys: the last positions, the last one first
  const BatchedParameters& p = launch.parameters;
  const int channel = blockIdx.x, side = threadIdx.x / kMixerTaps, n = threadIdx.x % kMixerTaps;
  const bool has_initial = static_cast<bool>(p.initial_shift);
  shift.read(p, channel);
  for (int first = 0; first < p.batch; first += kSide) {
    __syncthreads();
    initial.read(p.initial_shift, first, p.batch, channel, p.taps);
#pragma unroll
    for (int i = threadIdx.x; i < kSide * kMixerTaps; i += kParameterThreads) {
      const int back = i % kMixerTaps, sequence = first + i / kMixerTaps;
      keys.at(back, i / kMixerTaps) =
          launch.final_shift && sequence < p.batch && back < p.length
              ? to_float(launch.k(sequence, p.length - 1 - back, channel))
              : 0.f;
    }
    __syncthreads();
    float4 added{}, last{};
#pragma unroll 8
    for (int j = 0; j < kMixerTaps; ++j) {
      add_scaled(added, shift.C[n + j + 1], initial.value[j][side]);
      add_scaled(last, shift.B_at(n - j), keys.value[j][side]);
    }
    for (int i = 0; i < 4; ++i) {
      const int sequence = first + 4 * side + i;
      if (sequence >= p.batch) break;
      if (has_initial)
        launch.history[(static_cast<Index>(channel) * p.batch + sequence) * kMixerTaps + n] =
            part_of(added, i);
      if (launch.final_shift && n < p.taps)
        launch.final_shift(sequence, channel, n) =
            part_of(last, i) + (n >= p.length ? initial.at(n - p.length, 4 * side + i) : 0.f);
    }
  }
}

/// A channel's matrices, and what its shift states do: one block a channel for either.
/// Cost    10^5 operations a channel
static __global__ void __launch_bounds__(kParameterThreads)
    prepare_batched_h3(const BatchedPreparation launch) {
  wait_for_predecessors();
  let_successor_begin();
  if (blockIdx.y == 1) {
    carry_shift_states(launch);
    return;
  }
  __shared__ ShiftParameters shift;
  // A place more a row, so that rows begin in different banks.
  __shared__ float2 power[kBlock + 1][kMixerModes + 1], input[kMixerModes], output[kMixerModes];
  __shared__ float tap[kBlock], shift_tap[kMixerTaps];
  const BatchedParameters& p = launch.parameters;
  const int channel = blockIdx.x, thread = threadIdx.x;
  shift.read(p, channel);
  {
    const int n = thread % kMixerModes, part = thread / kMixerModes;  // four powers each
    const bool present = n < p.modes;
    const Mode m = present ? p.mode(channel, n) : Mode{};
    const double2 a2 = multiply(m.a, m.a), a4 = multiply(a2, a2);
    double2 run{1.0, 0.0};
    if (part & 1) run = a4;
    if (part & 2) run = multiply(run, multiply(a4, a4));
    const int last = part == 3 ? kBlock : 4 * part + 3;
#pragma unroll 1
    for (int i = 4 * part; i <= last; ++i) {
      power[i][n] = {static_cast<float>(run.x), static_cast<float>(run.y)};
      run = multiply(run, m.a);
    }
    if (part == 0) {
      input[n] = {static_cast<float>(m.b.x), static_cast<float>(m.b.y)};
      const double2 c = present ? p.output(channel, n) : double2{0.0, 0.0};
      output[n] = {static_cast<float>(c.x), static_cast<float>(c.y)};
    }
  }
  __syncthreads();
  {
    const int t = thread / 8, part = thread % 8;
    float sum = 0.f;
#pragma unroll
    for (int n = part; n < kMixerModes; n += 8)
      sum += multiply(multiply(output[n], input[n]), power[t][n]).x;
    for (int lane = 1; lane < 8; lane *= 2) sum += __shfl_xor_sync(~0u, sum, lane);
    if (part == 0) tap[t] = 2.f * sum;
  }
  {
    const int lag = thread / 2, part = thread % 2;
    float sum = 0.f;
#pragma unroll 8
    for (int j = part; j < kMixerTaps; j += 2) sum += shift.B_at(j) * shift.C[j + lag];
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (part == 0) shift_tap[lag] = sum + (lag == 0 ? p.shift_skip(channel) : 0.f);
  }
  __syncthreads();

  ForwardMatrices& forward = launch.forward[channel];
  {
    // A thread's place in all of them: states by positions, and positions by states.
    static_assert(kParameterThreads == 32 * kModeTiles);
    const int tile = thread / 32, lane = thread % 32, g = lane / 4, q = lane % 4;
    const int mode = 8 * tile + g, first_mode = 8 * tile + 2 * q;
    const auto write_split = [&](StateMatrix* to, const auto& part, float imaginary_sign) {
      unsigned word[4][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 v = part(8 * half + 2 * q), next = part(8 * half + 2 * q + 1);
        split_bf16(v.x, next.x, word[2 * half]);
        split_bf16(imaginary_sign * v.y, imaginary_sign * next.y, word[2 * half + 1]);
      }
#pragma unroll
      for (int t = 0; t < 2; ++t)
        to[t].fragment[tile][lane] = {word[0][t], word[1][t], word[2][t], word[3][t]};
    };
    const auto write_rounded = [&](StateMatrix& to, const auto& part, float imaginary_sign) {
      unsigned word[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 v = part(8 * half + g, first_mode), next = part(8 * half + g, first_mode + 1);
        word[half] = pack_bf16(v.x, next.x);
        word[2 + half] = pack_bf16(imaginary_sign * v.y, imaginary_sign * next.y);
      }
      to.fragment[tile][lane] = {word[0], word[1], word[2], word[3]};
    };
    const auto twice = [](float2 v) { return float2{2.f * v.x, 2.f * v.y}; };
    const auto lift = [&](int i) { return multiply(input[mode], power[kBlock - 1 - i][mode]); };
    write_split(forward.lift, lift, 1.f);
    write_rounded(
        forward.lower, [&](int i, int n) { return twice(multiply(output[n], power[i + 1][n])); },
        -1.f);
    if (launch.adjoint != nullptr) {
      AdjointMatrices& adjoint = launch.adjoint[channel];
      write_split(adjoint.lift, lift, 1.f);
      write_split(
          adjoint.raise, [&](int i) { return twice(multiply(output[mode], power[i + 1][mode])); },
          -1.f);
      write_rounded(
          adjoint.spread,
          [&](int i, int n) { return multiply(input[n], power[kBlock - 1 - i][n]); }, 1.f);
    }
  }
  const auto tap_at = [&](int lag) { return lag >= 0 && lag < kBlock ? tap[lag] : 0.f; };
  const auto shift_at = [&](int lag) {
    return lag >= 0 && lag < kMixerTaps ? shift_tap[lag] : 0.f;
  };
#pragma unroll
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
    }
    if (thread == 0) adjoint.skip = skip;
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

/// Joins segments, forwards or, with conjugate powers, backwards: one warp a channel. Parameters
/// are read before the walk is done: a walk lets this kernel begin behind its own wait.
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
  wait_for_predecessors();
  let_successor_begin();
  for (int sequence = 0; sequence < launch.columns.sequences; ++sequence) {
    float2 state{0.f, 0.f};
    if (launch.first)
      state = {launch.first(sequence, channel, n, 0), launch.first(sequence, channel, n, 1)};
    const auto column = [&](int i) {
      return sequence * segments + (Reverse ? segments - 1 - i : i);
    };
    for (int first = 0; first < segments; first += kSide) {
      float2 added[kSide];  // on their way together
#pragma unroll
      for (int i = 0; i < kSide; ++i)
        if (first + i < segments)
          added[i] = {launch.states(column(first + i), channel, n, 0),
                      launch.states(column(first + i), channel, n, 1)};
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        if (first + i >= segments) break;
        launch.states(column(first + i), channel, n, 0) = state.x;
        launch.states(column(first + i), channel, n, 1) = state.y;
        state = multiply_add(a, state, added[i]);
      }
    }
    if (!launch.last) continue;
    launch.last(sequence, channel, n, 0) = state.x;
    launch.last(sequence, channel, n, 1) = state.y;
  }
}

}  // namespace ssm::cuda::device
