// SPDX-License-Identifier: Apache-2.0
#include "layer_fields.hpp"
#include "make_layer.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/dense_stack.hpp"

namespace ssm::api {

const LayerKind dense_retnet_kind{
    .name = "dense_retnet",
    .fields =
        "channels query_key_dim value_dim heads k_hidden v_hidden blocks sources | form eps fusion "
        "norm_eps",
    .make = [](const JsonObject& config, const LayerPlace& place) {
      using Mixer = GauRetention<GauRetentionConfig{}>;
      const Mixer mixer({.channels = needed_size(config, "channels"),
                         .query_key_dim = needed_size(config, "query_key_dim"),
                         .value_dim = needed_size(config, "value_dim"),
                         .heads = needed_size(config, "heads"),
                         .k_hidden = needed_size(config, "k_hidden"),
                         .v_hidden = needed_size(config, "v_hidden"),
                         .form = form_of(config),
                         .eps = config.number("eps", 1e-6, 0, any_number),
                         .fusion = fusion_of(config, "carried")});
      const RmsNorm<> norm(
          {.channels = mixer.channels(), .eps = config.number("norm_eps", 1e-6, 0, any_number)});
      return make_layer(
          DenseStack<RmsNorm<>, Mixer, "input_layernorm", "self_attn">(
              {.sources = static_cast<Index>(config.integer("sources", 0))}, norm,
              std::vector<Mixer>(static_cast<std::size_t>(config.integer("blocks", 1, 1024)),
                                 mixer)),
          place);
    }};

}  // namespace ssm::api
