// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/s4d.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind s4d_kind{.name = "s4d",
                         .fields = "channels | state discretization measure dt_min dt_max",
                         .make = [](const JsonObject& config, const LayerPlace& place) {
                           using Layer = S4D<S4DConfig{.state = dyn}>;
                           return make_layer(
                               Layer({.channels = needed_size(config, "channels"),
                                      .state = size_option(config, "state"),
                                      .discretization = discretization_of(config, "zoh"),
                                      .measure = measure_of(config, "inv"),
                                      .dt_min = config.number("dt_min", 0.001, 0, any_number),
                                      .dt_max = config.number("dt_max", 0.1, 0, any_number)}),
                               place);
                         }};

}  // namespace ssm::api
