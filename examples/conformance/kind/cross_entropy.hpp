// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "../check_operation.hpp"
#include "ssm/op/cross_entropy.hpp"

namespace ssm::conformance {

/// Throws  Unsupported  for a reduction that the library does not have
inline Reduction reduction_of(const Trial& trial) {
  const std::string name = trial.text("reduction");
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  throw Unsupported("reduction '" + name + "'");
}

template <class B, class T>
void check_cross_entropy(Trial& trial) {
  OperationCheck<B, CrossEntropy<T, HostSpace>> check(trial, {{"dlogits", "grad/input/logits"}});
  auto& a = check.forward;
  constexpr Token least = std::numeric_limits<Token>::min();
  a.ignore_index = static_cast<Token>(trial.config().integer_or("ignore_index", -100, least));
  a.reduction = reduction_of(trial);
  if (trial.has_any("grad/"))
    a.scale = trial.view<1>("cotangent/loss", {1})(0);
  else
    a.dlogits = {};
  check.run([](auto& ctx, const auto& call) { cross_entropy(ctx, call); });
}

}  // namespace ssm::conformance
