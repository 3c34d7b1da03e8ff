// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/selective_transition.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/test_tensor.hpp"

namespace {

using ssm::SelectiveTransitionConfig;
using Dynamic = ssm::SelectiveTransition<SelectiveTransitionConfig{}>;

double silu(double x) { return x / (1 + std::exp(-x)); }

TEST_CASE("SelectiveTransition multiplies by SiLU of fc2 of SiLU of fc1") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const Dynamic layer({.channels = 1, .hidden = 1, .width = 1});
    auto p = layer.template zero_parameters<T>(ctx);
    p.fc1.weight(0, 0) = T(2);
    p.fc2.weight(0, 0) = T(-3);
    auto x = ssm::test::zero_tensor<T>(1, 1, 1);
    x(0, 0, 0) = T(0.4);
    auto h = ssm::test::zero_tensor<T>(1, 1, 1);
    h(0, 0, 0) = T(5);
    auto gate = ssm::test::nan_tensor<T>(1, 1, 1);
    auto y = ssm::test::nan_tensor<T>(1, 1, 1);
    layer.forward(ctx, p, x, gate);
    Dynamic::select<T>(ctx, gate, h, y);
    const double expected = 5 * silu(-3 * silu(0.8));
    CHECK(std::abs(static_cast<double>(y(0, 0, 0)) - expected) <= ssm::tolerance<T>.value);
  });
}

TEST_CASE("SelectiveTransition adds to the gradient of its input where asked to") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 3, .hidden = 2, .width = 4});
  const auto p = layer.initialize<double>(ctx, ssm::Seed{3});
  const auto x = ssm::test::random_tensor("x", 2, 5, 3);
  const auto dgate = ssm::test::random_tensor("dgate", 2, 5, 4);
  auto gate = ssm::test::nan_tensor(2, 5, 4);
  auto alone = ssm::test::nan_tensor(2, 5, 3);
  auto sum = ssm::test::random_tensor("earlier", 2, 5, 3);
  auto expected = sum.clone();
  auto tape = layer.make_tape<double>();
  auto gradients = layer.zero_parameters<double>(ctx);
  layer.forward(ctx, p, x, gate, tape);
  layer.backward(ctx, p, tape, dgate, alone, gradients);
  layer.differentiate(ctx, p, tape, dgate, sum, gradients, {}, ssm::WriteMode::accumulate);
  ssm::test::for_each_index(expected, [&](auto... i) { expected(i...) += alone(i...); });
  CHECK(ssm::test::difference(sum, expected) <= ssm::tolerance<double>.gradient);
}

TEST_CASE("SelectiveTransition names its parameters as checkpoints do") {
  ssm::Context<ssm::Reference> ctx;
  auto p = Dynamic({.channels = 2, .hidden = 3, .width = 4}).zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) { names.push_back(spec.name); }, p);
  CHECK(names == std::vector<std::string>{"fc1.weight", "fc2.weight"});
}

TEST_CASE("SelectiveTransition refuses a gate of another width") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 2, .hidden = 3, .width = 4});
  const auto p = layer.zero_parameters(ctx);
  const auto x = ssm::test::zero_tensor<float>(1, 2, 2);
  auto narrow = ssm::test::zero_tensor<float>(1, 2, 3);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, narrow), ssm::ShapeError);
  CHECK_THROWS_AS(Dynamic({.channels = 2, .hidden = 3}), ssm::ArgumentError);
}

}  // namespace
