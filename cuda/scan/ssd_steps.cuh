// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "kernel/activation_functions.cuh"
#include "kernel/chunks.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/packing.cuh"
#include "ssm/op/ssd_scan.hpp"

namespace ssm::cuda::device {

/// Δ of every position and head.
template <class T>
struct SsdSteps {
  using Number = Wide<T>;

  explicit SsdSteps(const ssm::SsdScan<T, CudaSpace>& a)
      : dt(operand(a.dt)),
        dt_bias(operand(a.dt_bias)),
        dt_softplus(a.dt_softplus),
        dt_min(static_cast<Number>(a.dt_min)),
        dt_max(static_cast<Number>(a.dt_max)) {}

  SSM_DEVICE Number raw(Index b, Index t, Index h) const {
    return widened(dt(b, t, h)) + value_or(Number{0}, dt_bias, h);
  }
  /// Before it is clamped.
  SSM_DEVICE Number free(Index b, Index t, Index h) const {
    return dt_softplus ? activate<Number>(ActivationKind::softplus, raw(b, t, h)) : raw(b, t, h);
  }
  SSM_DEVICE Number operator()(Index b, Index t, Index h) const {
    const Number step = free(b, t, h);
    return step < dt_min ? dt_min : step > dt_max ? dt_max : step;
  }
  /// dΔ/d(dt + dt_bias)
  SSM_DEVICE Number slope(Index b, Index t, Index h) const {
    const Number step = free(b, t, h);
    if (step < dt_min || step > dt_max) return Number{0};
    return dt_softplus ? sigmoid(raw(b, t, h)) : Number{1};
  }

  Operand<const T, 3> dt;
  Operand<const Number, 1> dt_bias;
  bool dt_softplus;
  Number dt_min;
  Number dt_max;
};

/// [S, H, P, N] as [S, H, N, P].
template <class T>
Operand<T, 4> keys_first(Operand<T, 4> state) {
  std::swap(state.strides[2], state.strides[3]);
  return state;
}

/// Adds what every place of a pass sums, [places, H], to a parameter's gradient.
/// partial   overwritten
template <class Passes, class W>
void add_head_sums(const Passes& passes, W* partial, const View<W, 1, CudaSpace>& to) {
  if (!to) return;
  const auto element = operand(to);
  sum_over_places(
      passes.a.chunking.places, passes.a.heads, partial, passes.stream, passes.operation,
      [=] SSM_DEVICE(Index h, double sum) { element(h) = static_cast<W>(element(h) + sum); });
}

}  // namespace ssm::cuda::device
