// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/shift_ssm.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_shift_ssm(Trial& trial) {
  check_layer<B, T>(trial, ShiftSsm<ShiftSsmConfig{.state = dyn}>(
                               {.channels = trial.size("D"), .state = trial.size("N")}));
}

}  // namespace ssm::conformance
