// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_operation.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm::conformance {

/// By the primitive, because weight and bias may each be missing.
template <class B, class T, NormalizationKind kind>
void check_normalization(Trial& trial) {
  OperationCheck<B, Normalization<T, HostSpace>, NormalizationBackward<T, HostSpace>> check(trial);
  check.forward.kind = kind;
  check.forward.eps = trial.number("eps");
  if (kind == NormalizationKind::rms) check.forward.mean = {};
  check.run([](auto& ctx, const auto& a) { normalization(ctx, a); },
            [](auto& ctx, const auto& g) { normalization_backward(ctx, g); });
}

template <class B, class T>
void check_layer_norm(Trial& trial) {
  check_normalization<B, T, NormalizationKind::layer>(trial);
}

template <class B, class T>
void check_rms_norm(Trial& trial) {
  check_normalization<B, T, NormalizationKind::rms>(trial);
}

}  // namespace ssm::conformance
