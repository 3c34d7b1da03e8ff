// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/layer/dense_mamba.hpp"

namespace {

using ssm::DenseMamba;
using ssm::DenseMambaConfig;
using ssm::dyn;

TEST_CASE("how DenseMamba fuses can be said at run time") {
  using Dynamic = DenseMamba<DenseMambaConfig{}>;
  CHECK(Dynamic({.mamba = {.channels = 8}}).fusion() == ssm::DenseFusion::readout);
  CHECK(Dynamic({.mamba = {.channels = 8}, .fusion = ssm::DenseFusion::carried}).fusion() ==
        ssm::DenseFusion::carried);
}

TEST_CASE("the gate's width follows from the channels and can be given") {
  using Dynamic = DenseMamba<DenseMambaConfig{}>;
  const auto hidden_of = [](const Dynamic& layer) {
    ssm::Context<ssm::Reference> ctx;
    return layer.zero_parameters<float>(ctx).select.fc1.weight.extent(0);
  };
  CHECK(hidden_of(Dynamic({.mamba = {.channels = 64}})) == 2);
  CHECK(hidden_of(Dynamic({.mamba = {.channels = 8}})) == 1);
  CHECK(hidden_of(Dynamic({.mamba = {.channels = 64}, .select_reduction = 8})) == 8);
  CHECK(hidden_of(Dynamic({.mamba = {.channels = 64}, .select_hidden = 5})) == 5);
}

}  // namespace
