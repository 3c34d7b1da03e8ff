// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number
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
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const auto logits = trial.read<T, 3>("input/logits");
  const Index rows = logits.extent(0) * logits.extent(1);
  const Index vocabulary = logits.extent(2);
  const auto targets = trial.tokens<2>("input/targets", {logits.extent(0), logits.extent(1)});
  constexpr Token least = std::numeric_limits<Token>::min();
  const auto ignored = static_cast<Token>(trial.config().integer_or("ignore_index", -100, least));
  DynamicTensor<T, 1> loss({Index{1}});
  fill(loss, not_a_number);
  auto dlogits = filled_like(logits, not_a_number);
  const bool has_gradient = trial.has_any("grad/");
  CrossEntropy<T, HostSpace> a{.logits = logits.reshape(rows, vocabulary),
                               .targets = targets.flatten(),
                               .ignore_index = ignored,
                               .reduction = reduction_of(trial),
                               .loss = loss};
  if (has_gradient) {
    a.scale = trial.view<1>("cotangent/loss", {1})(0);
    a.dlogits = dlogits.reshape(rows, vocabulary);
  }
  cross_entropy(ctx, a);
  trial.compare("output/loss", loss, tolerance<T>.value);
  if (has_gradient) trial.compare("grad/input/logits", dlogits, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
