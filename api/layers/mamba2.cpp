// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/mamba2.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind mamba2_kind{
    .name = "mamba2",
    .fields =
        "channels | inner expand head_dim groups state conv_width conv_bias bias eps dt_limit_min "
        "dt_limit_max dt_min dt_max dt_floor A_min A_max",
    .make = [](const JsonObject& config, const LayerPlace& place) {
      using Layer = Mamba2<Mamba2Config{.inner = dyn,
                                        .head_dim = dyn,
                                        .groups = dyn,
                                        .state = dyn,
                                        .conv_width = dyn,
                                        .bias = true}>;
      constexpr double infinite = std::numeric_limits<double>::infinity();
      return make_layer(Layer({.channels = needed_size(config, "channels"),
                               .inner = size_option(config, "inner"),
                               .expand = size_option(config, "expand"),
                               .head_dim = size_option(config, "head_dim"),
                               .groups = size_option(config, "groups"),
                               .state = size_option(config, "state"),
                               .conv_width = size_option(config, "conv_width"),
                               .conv_bias = config.boolean("conv_bias", true),
                               .bias = config.boolean("bias", false),
                               .eps = config.number("eps", 1e-5, 0, any_number),
                               .dt_limit_min = config.number("dt_limit_min", 0, 0, any_number),
                               .dt_limit_max = config.number("dt_limit_max", infinite, 0, infinite),
                               .dt_min = config.number("dt_min", 0.001, 0, any_number),
                               .dt_max = config.number("dt_max", 0.1, 0, any_number),
                               .dt_floor = config.number("dt_floor", 1e-4, 0, any_number),
                               .A_min = config.number("A_min", 1, 0, any_number),
                               .A_max = config.number("A_max", 16, 0, any_number)}),
                        place);
    }};

}  // namespace ssm::api
