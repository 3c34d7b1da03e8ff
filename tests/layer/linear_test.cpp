// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/linear.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "ssm/core/compare.hpp"
#include "support/backends.hpp"

namespace {

using ssm::dyn;
using ssm::LinearConfig;

TEST_CASE("Linear multiplies by the transposed weight and adds the bias") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::Linear<LinearConfig{.inputs = 2, .outputs = 3}> layer;
    ssm::Context<B> ctx;
    auto p = layer.template zero_parameters<T>(ctx);
    int next = 1;
    ssm::for_each_element([&](T& w) { w = static_cast<T>(next++); }, p.weight);  // 1 2 | 3 4 | 5 6
    ssm::for_each_element([&](T& b) { b = static_cast<T>(10 * next++); }, p.bias);  // 70 80 90
    ssm::DynamicTensor<T, 3> x({1, 1, 2});
    x(0, 0, 0) = T{1};
    x(0, 0, 1) = T{-1};
    ssm::DynamicTensor<T, 3> y({1, 1, 3});
    layer.forward(ctx, p, x, y);
    CHECK(y(0, 0, 0) == T{69});
    CHECK(y(0, 0, 1) == T{79});
    CHECK(y(0, 0, 2) == T{89});
  });
}

TEST_CASE("Linear starts uniform within one over the root of its inputs") {
  const ssm::Linear<LinearConfig{}> layer({.inputs = 16, .outputs = 200});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.initialize<double>(ctx, ssm::Seed{3});
  double largest = 0;
  double square = 0;
  ssm::for_each_element(
      [&](double w) {
        largest = std::max(largest, std::abs(w));
        square += w * w / static_cast<double>(16 * 200);
      },
      p.weight);
  CHECK(largest <= 0.25);
  CHECK(largest > 0.24);
  CHECK(std::abs(square * 3 * 16 - 1) < 0.1);  // variance bound²/3
}

TEST_CASE("Linear has no bias parameter unless it is configured") {
  ssm::Context<ssm::Reference> ctx;
  const ssm::Linear<LinearConfig{.inputs = 3, .outputs = 5, .bias = false}> layer;
  CHECK(ssm::parameter_count(layer.zero_parameters(ctx)) == 15);
}

TEST_CASE("Linear refuses missing, contradicting and impossible sizes") {
  using Dynamic = ssm::Linear<LinearConfig{}>;
  using Static = ssm::Linear<LinearConfig{.inputs = 3, .outputs = 5}>;
  CHECK_THROWS_AS(Dynamic({.inputs = 3}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.inputs = 3, .outputs = 0}), ssm::ArgumentError);
  CHECK_THROWS_AS(Static({.inputs = 4, .outputs = 5}), ssm::ArgumentError);
  CHECK_NOTHROW(Static({.inputs = 3}));
}

TEST_CASE("Linear refuses operands of another width or length") {
  const ssm::Linear<LinearConfig{.inputs = 3, .outputs = 5}> layer;
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 4, 3});
  ssm::DynamicTensor<float, 3> narrow({2, 4, 2});
  ssm::DynamicTensor<float, 3> y({2, 4, 5});
  ssm::DynamicTensor<float, 3> shorter({2, 3, 5});
  CHECK_THROWS_AS(layer.forward(ctx, p, narrow, y), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, x), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, shorter), ssm::ShapeError);
  CHECK_NOTHROW(layer.forward(ctx, p, x, y));
}

}  // namespace
