// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/diagonal_ssm.hpp"

namespace ssm::conformance {

/// Throws  Unsupported  for a discretisation that the library does not have
inline Discretization discretization_of(const Trial& trial) {
  const std::string name = trial.text("discretization");
  if (name == "bilinear") return Discretization::bilinear;
  if (name == "zoh") return Discretization::zero_order_hold;
  throw Unsupported("discretization '" + name + "'");
}

template <class B, class T>
void check_diagonal_ssm(Trial& trial) {
  const auto check =
      [&]<Discretization discretization>(std::integral_constant<Discretization, discretization>) {
        constexpr DiagonalSsmConfig scan{.state = dyn, .discretization = discretization};
        constexpr DiagonalSsmConfig convolution{
            .state = dyn, .discretization = discretization, .form = DiagonalForm::convolution};
        const DiagonalSsmConfig sizes{.channels = trial.size("D"), .state = trial.size("N")};
        check_layer<B, T>(trial, DiagonalSsm<scan>(sizes));
        if (!trial.has_any("state/initial/"))
          check_stateless<B, T>(trial, DiagonalSsm<convolution>(sizes), " by convolution");
      };
  if (discretization_of(trial) == Discretization::bilinear)
    check(std::integral_constant<Discretization, Discretization::bilinear>());
  else
    check(std::integral_constant<Discretization, Discretization::zero_order_hold>());
}

}  // namespace ssm::conformance
