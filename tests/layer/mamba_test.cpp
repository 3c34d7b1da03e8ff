// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/mamba.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"

namespace {

using ssm::dyn;
using ssm::Mamba;
using ssm::MambaConfig;

/// Every size only at run time, so that one type serves all of them.
using Dynamic = Mamba<MambaConfig{.state = dyn, .conv_width = dyn}>;

TEST_CASE("sizes that are left out follow from the channels") {
  const Dynamic layer({.channels = 40, .state = 16, .conv_width = 4});
  CHECK(layer.inner() == 80);
  CHECK(layer.dt_rank() == 3);
  CHECK(Dynamic({.channels = 40, .expand = 3, .state = 16, .conv_width = 4}).inner() == 120);
  CHECK_THROWS_AS(Mamba<MambaConfig{.channels = 8}>({.inner = 24}), ssm::ArgumentError);
}

TEST_CASE("steps start between dt_min and dt_max, and A at minus one to minus N") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 32, .state = 16, .conv_width = 4});
  const auto p = layer.template initialize<double>(ctx, ssm::Seed{1});
  for (ssm::Index d = 0; d < layer.inner(); ++d) {
    const double dt = std::log1p(std::exp(p.dt_proj.bias(d)));
    CHECK(dt >= 0.001 * (1 - ssm::tolerance<double>.value));
    CHECK(dt <= 0.1 * (1 + ssm::tolerance<double>.value));
    CHECK(std::exp(p.A_log(d, 15)) == doctest::Approx(16));
    CHECK(p.D(d) == 1);
  }
}

TEST_CASE("A, D and what gives the step sizes are never decayed") {
  ssm::Context<ssm::Reference> ctx;
  const auto p = Dynamic({.channels = 4, .state = 2, .conv_width = 4}).zero_parameters<float>(ctx);
  ssm::for_each_parameter(
      [](const ssm::ParameterSpec& spec, const auto&) {
        const bool is_dynamics =
            spec.name == "A_log" || spec.name == "D" || spec.name.starts_with("dt_proj.");
        CHECK(spec.weight_decay == !is_dynamics);
      },
      p);
}

}  // namespace
