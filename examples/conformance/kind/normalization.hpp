// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number
#include "ssm/op/normalization.hpp"

namespace ssm::conformance {

/// By the primitive, because weight and bias may each be missing.
template <class B, class T, NormalizationKind kind>
void check_normalization(Trial& trial) {
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const auto x = trial.read<T, 3>("input/x");
  const auto weight = trial.read_if_given<T, 1>("param/weight");
  const auto bias = trial.read_if_given<T, 1>("param/bias");
  const Index rows = x.extent(0) * x.extent(1);
  const auto as_rows = [&](auto& tensor) { return tensor.reshape(rows, x.extent(2)); };
  auto y = filled_like(x, not_a_number);
  auto mean = filled_like(DynamicTensor<T, 1>({rows}), not_a_number);
  auto scale = filled_like(mean, not_a_number);
  Normalization<T, HostSpace> forward{.kind = kind,
                                      .eps = trial.number("eps"),
                                      .x = as_rows(x),
                                      .weight = weight,
                                      .bias = bias,
                                      .y = as_rows(y),
                                      .scale = scale};
  if (kind == NormalizationKind::layer) forward.mean = mean;
  normalization(ctx, forward);
  trial.compare("output/y", y, tolerance<T>.value);
  if (!trial.has_any("grad/")) return;

  const auto dy = trial.read<T, 3>("cotangent/y", x.extents().to_array());
  auto dx = filled_like(x, not_a_number);
  auto dweight = filled_like(weight, 0);
  auto dbias = filled_like(bias, 0);
  normalization_backward(ctx, NormalizationBackward<T, HostSpace>{.forward = forward,
                                                                  .mean = mean,
                                                                  .scale = scale,
                                                                  .dy = as_rows(dy),
                                                                  .dx = as_rows(dx),
                                                                  .dweight = dweight,
                                                                  .dbias = dbias});
  trial.compare_if_given("grad/input/x", dx, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/weight", dweight, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/bias", dbias, tolerance<T>.gradient);
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
