// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/attention.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind attention_kind{
    .name = "attention",
    .fields = "channels heads | rotary_dim rotary_base scale",
    .make = [](const JsonObject& config, const LayerPlace& place) {
      using Layer = CausalAttention<CausalAttentionConfig{}>;
      CausalAttentionOptions options{
          .channels = needed_size(config, "channels"),
          .heads = needed_size(config, "heads"),
          .rotary_dim = static_cast<Index>(config.integer_or("rotary_dim", 0, 0)),
          .rotary_base = config.number("rotary_base", 10000, 0, any_number)};
      if (config.has("scale")) options.scale = config.number("scale", 0, -any_number, any_number);
      return make_layer(Layer(options), place);
    }};

}  // namespace ssm::api
