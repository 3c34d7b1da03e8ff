// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/retention.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind retention_kind{.name = "retention",
                               .fields = "channels value_dim heads | form eps",
                               .make = [](const JsonObject& config, const LayerPlace& place) {
                                 using Layer = Retention<RetentionConfig{}>;
                                 return make_layer(
                                     Layer({.channels = needed_size(config, "channels"),
                                            .value_dim = needed_size(config, "value_dim"),
                                            .heads = needed_size(config, "heads"),
                                            .form = form_of(config),
                                            .eps = config.number("eps", 1e-6, 0, any_number)}),
                                     place);
                               }};

}  // namespace ssm::api
