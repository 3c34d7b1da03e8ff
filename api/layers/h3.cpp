// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/h3.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind h3_kind{.name = "h3",
                        .fields = "channels | state head_dim discretization measure dt_min dt_max",
                        .make = [](const JsonObject& config, const LayerPlace& place) {
                          using Layer = H3<H3Config{.state = dyn, .head_dim = dyn}>;
                          return make_layer(
                              Layer({.channels = needed_size(config, "channels"),
                                     .state = size_option(config, "state"),
                                     .head_dim = size_option(config, "head_dim"),
                                     .discretization = discretization_of(config, "bilinear"),
                                     .measure = measure_of(config, "lin"),
                                     .dt_min = config.number("dt_min", 0.001, 0, any_number),
                                     .dt_max = config.number("dt_max", 0.1, 0, any_number)}),
                              place);
                        }};

}  // namespace ssm::api
