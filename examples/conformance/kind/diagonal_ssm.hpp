// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/diagonal_ssm.hpp"

namespace ssm::conformance {

/// Throws  Unsupported  for a discretization that the library does not have
inline Discretization discretization_of(const Trial& trial) {
  const std::string name = trial.text("discretization");
  if (name == "bilinear") return Discretization::bilinear;
  if (name == "zoh") return Discretization::zero_order_hold;
  throw Unsupported("discretization '" + name + "'");
}

template <class B, class T>
void check_diagonal_ssm(Trial& trial) {
  using Scan = DiagonalSsm<DiagonalSsmConfig{.state = dyn}>;
  using Convolution =
      DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::convolution}>;
  const DiagonalSsmOptions options{.channels = trial.size("D"),
                                   .state = trial.size("N"),
                                   .discretization = discretization_of(trial)};
  check_layer<B, T>(trial, Scan(options));
  if (!trial.has_any("state/initial/"))
    check_stateless<B, T>(trial, Convolution(options), " by convolution");
}

}  // namespace ssm::conformance
