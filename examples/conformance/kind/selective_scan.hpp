// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_operation.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_selective_scan(Trial& trial) {
  OperationCheck<B, SelectiveScan<T, HostSpace>, SelectiveScanBackward<T, HostSpace>> check(
      trial, {{"dt", "delta"},
              {"skip", "D"},
              {"dt_bias", "delta_bias"},
              {"gate", "z"},
              {"initial_state", "ssm"},
              {"final_state", "ssm"}});
  check.forward.dt_softplus = trial.config().boolean("delta_softplus", false);
  check.run([](auto& ctx, const auto& a) { selective_scan(ctx, a); },
            [](auto& ctx, const auto& g) { selective_scan_backward(ctx, g); });
}

}  // namespace ssm::conformance
