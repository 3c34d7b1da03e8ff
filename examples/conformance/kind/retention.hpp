// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/retention.hpp"

namespace ssm::conformance {

inline RetentionForm retention_form(const Trial& trial) {
  const std::string form = trial.text("form");
  if (form != "recurrent" && form != "parallel") throw CaseError("form '" + form + "' is unknown");
  return form == "parallel" ? RetentionForm::parallel : RetentionForm::recurrent;
}

/// How much worse a head norm may make single precision, where the norm is small.
inline constexpr double head_norm_leeway = 10;

template <class B, class T>
void check_retention(Trial& trial) {
  using Layer = Retention<RetentionConfig{}>;
  check_layer<B, T>(trial,
                    Layer({.channels = trial.size("d"),
                           .value_dim = trial.size("value_dim"),
                           .heads = trial.size("heads"),
                           .form = retention_form(trial),
                           .eps = trial.number("eps")}),
                    StateLayout::same, head_norm_leeway);
}

}  // namespace ssm::conformance
