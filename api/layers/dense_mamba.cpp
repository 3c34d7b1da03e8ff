// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/dense_mamba.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/dense_stack.hpp"

namespace ssm::api {

const LayerKind dense_mamba_kind{
    .name = "dense_mamba",
    .fields =
        "channels blocks sources | fusion select_hidden select_reduction norm_eps inner expand "
        "state "
        "conv_width dt_rank conv_bias bias dt_min dt_max dt_floor",
    .make = [](const JsonObject& config, const LayerPlace& place) {
      using Mixer = DenseMamba<DenseMambaConfig{
          .mamba = {.inner = dyn, .state = dyn, .conv_width = dyn, .dt_rank = dyn, .bias = true},
          .select_hidden = dyn}>;
      const Mixer mixer({.mamba = mamba_options(config),
                         .select_hidden = size_option(config, "select_hidden"),
                         .select_reduction = size_option(config, "select_reduction"),
                         .fusion = fusion_of(config, "readout")});
      const RmsNorm<> norm(
          {.channels = mixer.channels(), .eps = config.number("norm_eps", 1e-5, 0, any_number)});
      return make_layer(
          DenseStack<RmsNorm<>, Mixer>(
              {.sources = static_cast<Index>(config.integer("sources", 0))}, norm,
              std::vector<Mixer>(static_cast<std::size_t>(config.integer("blocks", 1, 1024)),
                                 mixer)),
          place);
    }};

}  // namespace ssm::api
