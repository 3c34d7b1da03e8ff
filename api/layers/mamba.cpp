// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/mamba.hpp"

#include "layer_fields.hpp"
#include "make_layer.hpp"

namespace ssm::api {

const LayerKind mamba_kind{
    .name = "mamba",
    .fields =
        "channels | inner expand state conv_width dt_rank conv_bias bias dt_min dt_max dt_floor",
    .make = [](const JsonObject& config, const LayerPlace& place) {
      using Layer = Mamba<MambaConfig{
          .inner = dyn, .state = dyn, .conv_width = dyn, .dt_rank = dyn, .bias = true}>;
      return make_layer(Layer(mamba_options(config)), place);
    }};

}  // namespace ssm::api
