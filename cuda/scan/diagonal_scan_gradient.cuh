// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_matrices.cuh"

namespace ssm::cuda::device {

/// What the gradient of the final state sends into the last, possibly partial, chunk of each
/// sequence.
template <class T>
struct TailLaunch {
  DiagonalScanBackward<T> call;
  const char* workspace;
  const Complex<float>* last_state;  // [S, D, modes]   state before the last chunk
  float2* state;                     // [S, D, kModes]
  float* input;                      // [S, D, kChunk]
  float2* partial;                   // [S, D, 2, kModes]  gradients of b̄ and ā
  int sequences;
};

/// One warp a sequence and channel, one lane a mode; at most 64 dependent steps.
template <class T>
__global__ void __launch_bounds__(kThreads) spread_final_state(const TailLaunch<T> launch) {
  using Layout = ChannelLayout<T>;
  const DiagonalScanBackward<T>& call = launch.call;
  const int channel = blockIdx.x, s = blockIdx.y * kWarps + threadIdx.x / 32,
            mode = threadIdx.x % 32;
  if (s >= launch.sequences) return;
  const Range range = sequence_range<tile_positions<T>>(call.shape, s);
  const char* const base = launch.workspace + channel * Layout::bytes;
  const float2* const table = reinterpret_cast<const float2*>(base + Layout::table_at);
  const float2* const power = reinterpret_cast<const float2*>(base + Layout::powers_at);
  const long long item = static_cast<long long>(s) * call.shape.channels + channel;
  const long long index = item * call.shape.modes + mode;
  float2 state{0.f, 0.f}, gradient{0.f, 0.f}, da{0.f, 0.f}, db{0.f, 0.f};
  if (mode < call.shape.modes && range.length > 0) {
    state = {launch.last_state[index].re, launch.last_state[index].im};
    gradient = {call.dfinal_state[index].re, call.dfinal_state[index].im};
  }
  const float2 a = table[kOne * kTablePitch + mode], b = table[kInput * kTablePitch + mode];
  const T* const x = at(call.x, range, channel);
  const T* const gate = at(call.gate_in, range, channel);
  const int first = range.length > 0 ? (range.length - 1) / kChunk * kChunk : 0,
            count = range.length - first;
  for (int i = 0; i < kChunk; ++i) {
    float du = 0.f;
    if (i < count) {
      const float u = to_float(x[first + i]) * (gate != nullptr ? to_float(gate[first + i]) : 1.f);
      const float2 adjoint = multiply(conjugate(power[(count - 1 - i) * kModes + mode]), gradient);
      da = multiply_add(conjugate(state), adjoint, da);
      db = {db.x + u * adjoint.x, db.y + u * adjoint.y};
      state = multiply_add(a, state, {b.x * u, b.y * u});
      du = b.x * adjoint.x + b.y * adjoint.y;
      for (int lane = 16; lane > 0; lane /= 2) du += __shfl_xor_sync(~0u, du, lane);
    }
    if (mode == 0) launch.input[item * kChunk + i] = du;
  }
  launch.state[item * kModes + mode] = multiply(conjugate(power[count * kModes + mode]), gradient);
  launch.partial[(item * 2 + 0) * kModes + mode] = db;
  launch.partial[(item * 2 + 1) * kModes + mode] = da;
}

template <class T>
struct GradientLaunch {
  DiagonalScanBackward<T> call;
  const float2* partial;       // [D, groups, 3, kModes]
  const float* partial_skip;   // [D, groups]
  const float2* tail_partial;  // [S, D, 2, kModes] or null
  int groups;
  int sequences;
};

/// Adds the partial sums in order and applies the chain rule of the discretization. One warp a
/// channel. What its predecessor does not write is read before that ends: a predecessor lets this
/// kernel begin behind its own wait.
template <class T>
__global__ void __launch_bounds__(32) finish_gradient(const GradientLaunch<T> launch) {
  const DiagonalScanBackward<T>& call = launch.call;
  const int channel = blockIdx.x, mode = threadIdx.x, modes = call.shape.modes;
  // Asked for before the sums, whose loads wait for each other.
  const long long index = static_cast<long long>(channel) * modes + min(mode, modes - 1);
  const double step = call.parameters.dt[channel];
  const Complex<float> a = call.parameters.a[index], b = call.parameters.b[index];
  const Mode m = discretized_mode(call.parameters.discretization, step, a, b);
  wait_for_predecessors();
  let_successor_begin();
  double2 sum[3]{};
  double skip = 0.0;
  for (int group = 0; group < launch.groups; ++group) {
    const long long at = static_cast<long long>(channel) * launch.groups + group;
    for (int k = 0; k < 3; ++k) {
      const float2 v = launch.partial[(at * 3 + k) * kModes + mode];
      sum[k] = {sum[k].x + v.x, sum[k].y + v.y};
    }
    skip += launch.partial_skip[at];
  }
  for (int s = 0; launch.tail_partial != nullptr && s < launch.sequences; ++s)
    for (int k = 1; k < 3; ++k) {
      const long long item = static_cast<long long>(s) * call.shape.channels + channel;
      const float2 v = launch.tail_partial[(item * 2 + k - 1) * kModes + mode];
      sum[k] = {sum[k].x + v.x, sum[k].y + v.y};
    }
  if (mode == 0 && call.dskip != nullptr) call.dskip[channel] += static_cast<float>(skip);
  const auto adjoint = [](double2 gradient, double2 derivative) {
    return multiply(gradient, double2{derivative.x, -derivative.y});
  };
  double ddt = 0.0;
  if (mode < modes) {
    const double2 scaled{step * b.re, step * b.im};
    const double2 from_a = adjoint(sum[2], m.da_dz),
                  from_b = adjoint(sum[1], multiply(scaled, m.dg_dz));
    const double2 dz{from_a.x + from_b.x, from_a.y + from_b.y};
    const double2 db = adjoint(sum[1], m.gain);
    const double2 per_step{m.b.x / step, m.b.y / step};
    ddt = adjoint(sum[1], per_step).x + dz.x * a.re + dz.y * a.im;
    call.dc[index].re += static_cast<float>(sum[0].x),
        call.dc[index].im += static_cast<float>(sum[0].y);
    call.db[index].re += static_cast<float>(db.x), call.db[index].im += static_cast<float>(db.y);
    call.da[index].re += static_cast<float>(step * dz.x),
        call.da[index].im += static_cast<float>(step * dz.y);
  }
  for (int lane = 16; lane > 0; lane /= 2) ddt += __shfl_xor_sync(~0u, ddt, lane);
  if (mode == 0) call.ddt[channel] += static_cast<float>(ddt);
}

}  // namespace ssm::cuda::device
