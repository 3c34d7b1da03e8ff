// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/decayed_memory.cuh"

namespace ssm::cuda::device {

/// The only position of every sequence: S = fade·S + k ⊗ scale·v, y = q·S.
/// Factors: fade(b, h), scale(b, h)
template <class T, class Factors, class Put>
struct DecayedStep {
  /// One value; neighbors read neighbors where values are contiguous.
  SSM_DEVICE void operator()(Index i) const {
    const Index j = i % a.values;
    const Index h = i / a.values % a.heads;
    const Index b = i / a.values / a.heads;
    const T fade = factors.fade(b, h);
    const T value = factors.scale(b, h) * a.v(b, 0, h, j);
    T sum{0};
    for (Index c = 0; c < a.keys; ++c) sum += advance(b, h, c, j, fade, value);
    put(b, 0, h, j, sum);
  }
  /// One value by a warp, for keys that are contiguous.
  SSM_DEVICE void operator()(Index i, Lanes lanes) const {
    const Index j = i % a.values;
    const Index h = i / a.values % a.heads;
    const Index b = i / a.values / a.heads;
    const T fade = factors.fade(b, h);
    const T value = factors.scale(b, h) * a.v(b, 0, h, j);
    const T sum = lanes.sum(a.keys, [&](Index c) { return advance(b, h, c, j, fade, value); });
    if (lanes.first()) put(b, 0, h, j, sum);
  }
  SSM_DEVICE T advance(Index b, Index h, Index c, Index j, T fade, T value) const {
    const Index g = a.group_of(h);
    const T state = fade * value_or(T{0}, initial_state, b, h, c, j) + a.k(b, 0, g, c) * value;
    if (final_state) final_state(b, h, c, j) = state;
    return a.q(b, 0, g, c) * state;
  }

  DecayedMemory<T> a;
  Factors factors;
  Operand<const T, 4> initial_state;
  Operand<T, 4> final_state;
  Put put;
};

/// Whether sequences are of one position each, which is one kernel.
template <class T>
bool is_decayed_step(const DecayedMemory<T>& a) {
  return a.length == 1 && a.chunking.packing.offsets == nullptr;
}
template <class T, class Factors, class Put>
void step_decayed(const DecayedStep<T, Factors, Put>& step, Stream stream, const char* operation) {
  const auto& a = step.a;
  const Index values = a.chunking.packing.sequences * a.heads * a.values;
  if (step.initial_state && step.initial_state.strides[2] == 1)
    for_each_row(values, stream, operation, step);
  else
    for_each_index(values, stream, operation, step);
}

}  // namespace ssm::cuda::device
