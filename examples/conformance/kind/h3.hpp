// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "diagonal_ssm.hpp"  // discretization_of
#include "ssm/layer/h3.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_h3(Trial& trial) {
  const auto check =
      [&]<Discretization discretization>(std::integral_constant<Discretization, discretization>) {
        constexpr H3Config config{.state = dyn, .head_dim = dyn, .discretization = discretization};
        check_layer<B, T>(trial, H3<config>({.channels = trial.size("D"),
                                             .state = trial.size("N"),
                                             .head_dim = trial.size("head_dim", 1)}));
      };
  if (discretization_of(trial) == Discretization::bilinear)
    check(std::integral_constant<Discretization, Discretization::bilinear>());
  else
    check(std::integral_constant<Discretization, Discretization::zero_order_hold>());
}

}  // namespace ssm::conformance
