// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_operation.hpp"
#include "ssm/op/ssd_scan.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_ssd_scan(Trial& trial) {
  OperationCheck<B, SsdScan<T, HostSpace>, SsdScanBackward<T, HostSpace>> check(
      trial, {{"skip", "D"}, {"initial_state", "ssm"}, {"final_state", "ssm"}},
      {{'H', trial.size("heads")},
       {'P', trial.size("head_dim")},
       {'G', trial.size("groups")},
       {'N', trial.size("N")}});
  check.forward.dt_softplus = trial.config().boolean("dt_softplus", false);
  if (trial.config().has("dt_limit")) {
    const nlohmann::json& limits = trial.config().json().at("dt_limit");
    if (!limits.is_array() || limits.size() != 2 || !limits[0].is_number() ||
        !limits[1].is_number())
      trial.config().refuse("dt_limit", "must be two numbers");
    check.forward.dt_min = limits[0].template get<double>();
    check.forward.dt_max = limits[1].template get<double>();
  }
  check.run([](auto& ctx, const auto& a) { ssd_scan(ctx, a); },
            [](auto& ctx, const auto& g) { ssd_scan_backward(ctx, g); });
}

}  // namespace ssm::conformance
