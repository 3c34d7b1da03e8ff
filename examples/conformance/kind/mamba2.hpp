// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/mamba2.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_mamba2(Trial& trial) {
  const JsonObject& config = trial.config();
  Mamba2Options options{.channels = trial.size("d"),
                        .inner = trial.size("heads") * trial.size("head_dim"),
                        .head_dim = trial.size("head_dim"),
                        .groups = trial.size("groups"),
                        .state = trial.size("d_state"),
                        .conv_width = trial.size("d_conv"),
                        .conv_bias = config.boolean("conv_bias", true),
                        .bias = config.boolean("bias", false),
                        .eps = trial.number("eps")};
  if (config.has("dt_limit")) {
    const nlohmann::json& limits = config.json().at("dt_limit");
    if (!limits.is_array() || limits.size() != 2 || !limits[0].is_number() ||
        !limits[1].is_number())
      config.refuse("dt_limit", "must be two numbers");
    options.dt_limit_min = limits[0].get<double>();
    options.dt_limit_max = limits[1].get<double>();
  }
  check_layer<B, T>(
      trial,
      Mamba2<Mamba2Config{
          .head_dim = dyn, .groups = dyn, .state = dyn, .conv_width = dyn, .bias = true}>(options));
}

}  // namespace ssm::conformance
