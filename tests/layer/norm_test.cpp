// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/norm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/backends.hpp"

namespace {

using ssm::NormalizationKind;
using ssm::NormConfig;

TEST_CASE("LayerNorm gives every position mean zero and variance one") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::LayerNorm<> layer({.channels = 64, .eps = 0});
    ssm::Context<B> ctx;
    const auto p = layer.template initialize<T>(ctx, ssm::Seed{1});
    ssm::DynamicTensor<T, 3> x({3, 2, 64});
    ssm::fill_normal(x, ssm::Seed{2}, 5, 3);
    ssm::DynamicTensor<T, 3> y({3, 2, 64});
    layer.forward(ctx, p, x, y);
    for (ssm::Index b = 0; b < 3; ++b)
      for (ssm::Index t = 0; t < 2; ++t) {
        double sum = 0;
        double square = 0;
        for (ssm::Index d = 0; d < 64; ++d) {
          sum += static_cast<double>(y(b, t, d)) / 64;
          square += std::pow(static_cast<double>(y(b, t, d)), 2) / 64;
        }
        CHECK(std::abs(sum) <= ssm::tolerance<T>.value);
        CHECK(std::abs(square - 1) <= ssm::tolerance<T>.value);
      }
  });
}

TEST_CASE("eps comes from run time, also where the width is in the type") {
  ssm::Context<ssm::Reference> ctx;
  const ssm::RmsNorm<1> layer({.eps = 3});
  const auto p = layer.initialize<double>(ctx, ssm::Seed{1});
  ssm::DynamicTensor<double, 3> x({1, 1, 1});
  x(0, 0, 0) = 1;
  ssm::DynamicTensor<double, 3> y({1, 1, 1});
  layer.forward(ctx, p, x, y);
  CHECK(std::abs(y(0, 0, 0) - 0.5) <= ssm::tolerance<double>.value);  // 1 / √(1 + 3)
}

TEST_CASE("RmsNorm has a weight and no bias, LayerNorm has both") {
  const auto names = []<class L>(const L& layer) {
    ssm::Context<ssm::Reference> ctx;
    auto p = layer.zero_parameters(ctx);
    std::vector<std::string> all;
    ssm::for_each_parameter(
        [&](const ssm::ParameterSpec& spec, auto& tensor) {
          CHECK(spec.role == ssm::ParameterRole::norm);
          CHECK(tensor.size() == 5);
          all.push_back(spec.name);
        },
        p);
    return all;
  };
  CHECK(names(ssm::RmsNorm<5>()) == std::vector<std::string>{"weight"});
  CHECK(names(ssm::LayerNorm<5>()) == std::vector<std::string>{"weight", "bias"});
}

TEST_CASE("a norm refuses a missing width and operands of another width or length") {
  CHECK_THROWS_AS(ssm::LayerNorm<>({}), ssm::ArgumentError);
  const ssm::LayerNorm<> layer({.channels = 3});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 4, 3});
  ssm::DynamicTensor<float, 3> wide({2, 4, 4});
  ssm::DynamicTensor<float, 3> swapped({4, 2, 3});
  CHECK_THROWS_AS(layer.forward(ctx, p, wide, wide), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, wide), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
}

}  // namespace
