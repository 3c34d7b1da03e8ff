// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "diagonal_ssm.hpp"  // discretization_of
#include "ssm/layer/h3.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_h3(Trial& trial) {
  using Layer = H3<H3Config{.state = dyn, .head_dim = dyn}>;
  check_layer<B, T>(trial, Layer({.channels = trial.size("D"),
                                  .state = trial.size("N"),
                                  .head_dim = trial.size("head_dim", 1),
                                  .discretization = discretization_of(trial)}));
}

}  // namespace ssm::conformance
