// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/feed_forward.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/compare.hpp"
#include "support/backends.hpp"

namespace {

using ssm::ActivationKind;
using ssm::FeedForwardConfig;

/// One channel, one hidden number: weights w1, wg, w2 and biases zero.
template <class T, class B, class L>
T one_number(const L& layer, T x, T w1, T wg, T w2) {
  ssm::Context<B> ctx;
  auto p = layer.template zero_parameters<T>(ctx);
  p.fc1.weight(0, 0) = w1;
  if (p.gate.weight) p.gate.weight(0, 0) = wg;
  p.fc2.weight(0, 0) = w2;
  ssm::DynamicTensor<T, 3> input({1, 1, 1});
  input(0, 0, 0) = x;
  ssm::DynamicTensor<T, 3> y({1, 1, 1});
  layer.forward(ctx, p, input, y);
  return y(0, 0, 0);
}

TEST_CASE("FeedForward computes fc2 of the activation of fc1, gated by a second projection") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::FeedForward<FeedForwardConfig{.channels = 1, .hidden = 1}> gelu;
    const double z = 0.8;
    const double expected =
        3 * 0.5 * z * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
    const double y = static_cast<double>(one_number<T, B>(gelu, T(0.4), T(2), T(0), T(3)));
    CHECK(std::abs(y - expected) <= ssm::tolerance<T>.value);

    const ssm::FeedForward<FeedForwardConfig{.channels = 1, .hidden = 1, .gated = true}> swiglu(
        {.activation = ActivationKind::silu});
    const double gated = static_cast<double>(one_number<T, B>(swiglu, T(0.4), T(2), T(5), T(3)));
    CHECK(std::abs(gated - 3 * (z / (1 + std::exp(-z))) * 2.0) <= ssm::tolerance<T>.value);
  });
}

TEST_CASE("in half types fc2's input is made again, and the same elements of it are dropped") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::FeedForward<FeedForwardConfig{.channels = 4, .hidden = 24}> layer({.dropout = 0.5});
    ssm::Context<B> ctx;
    const auto gradient = [&]<class T>(T) {
      const auto weights = layer.template initialize<float>(ctx, ssm::Seed{1});
      auto p = layer.template zero_parameters<T>(ctx);
      ssm::for_each_parameter(
          [](const auto&, const auto& from, auto& to) {
            for (ssm::Index i = 0; i < from.size(); ++i)
              to.data()[i] = static_cast<std::remove_cvref_t<decltype(to.data()[i])>>(
                  static_cast<float>(ssm::BFloat16(from.data()[i])));
          },
          weights, p);
      ssm::DynamicTensor<T, 3> x({2, 5, 4}), y(x.extents()), dx(x.extents());
      for (ssm::Index i = 0; i < x.size(); ++i)
        x.data()[i] = static_cast<T>(static_cast<float>(i % 7) / 4 - 0.75F);
      auto tape = layer.template make_tape<T>(ctx);
      auto gradients = layer.template zero_parameters<ssm::Wide<T>>(ctx);
      layer.forward(ctx, p, x, y, tape, {.dropout = ssm::Seed{2}});
      CHECK(tape.hidden.size() == (ssm::HalfStorage<T> ? 0 : 2 * 5 * 24));
      layer.backward(ctx, p, tape, x, dx, gradients);
      return std::move(gradients.fc2.weight);
    };
    const auto exact = gradient(0.F);
    const auto half = gradient(ssm::BFloat16());
    float largest = 0;
    for (ssm::Index i = 0; i < exact.size(); ++i)
      largest = std::max(largest, std::abs(exact.data()[i] - half.data()[i]));
    CHECK(largest < 0.02F);
  });
}

TEST_CASE("what the activation is can be said at run time") {
  using Gated = ssm::FeedForward<FeedForwardConfig{.gated = true}>;
  const auto value = [](ActivationKind kind) {
    const Gated layer({.channels = 1, .hidden = 1, .activation = kind});
    return one_number<double, ssm::Reference>(layer, 0.4, 2.0, 5.0, 3.0);
  };
  const double z = 0.8;
  constexpr double allowed = ssm::tolerance<double>.value;
  CHECK(std::abs(value(ActivationKind::relu) - 6 * z) <= allowed);
  CHECK(std::abs(value(ActivationKind::silu) - 6 * z / (1 + std::exp(-z))) <= allowed);
  CHECK(std::abs(value(ActivationKind::gelu_erf) - 3 * z * (1 + std::erf(z / std::sqrt(2.0)))) <=
        allowed);
}

TEST_CASE("FeedForward names its parameters as checkpoints do") {
  const auto names = []<class L>(const L& layer) {
    ssm::Context<ssm::Reference> ctx;
    auto p = layer.zero_parameters(ctx);
    std::vector<std::string> all;
    ssm::for_each_parameter(
        [&](const ssm::ParameterSpec& spec, auto&) { all.push_back(spec.name); }, p);
    return all;
  };
  using Names = std::vector<std::string>;
  CHECK(names(ssm::FeedForward<FeedForwardConfig{.channels = 2, .hidden = 3}>()) ==
        Names{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"});
  CHECK(names(ssm::FeedForward<FeedForwardConfig{
                  .channels = 2, .hidden = 3, .gated = true, .bias = false}>()) ==
        Names{"fc1.weight", "gate.weight", "fc2.weight"});
}

TEST_CASE("FeedForward refuses missing sizes and operands of another width or length") {
  using Dynamic = ssm::FeedForward<FeedForwardConfig{}>;
  CHECK_THROWS_AS(Dynamic({.channels = 3}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.hidden = 3}), ssm::ArgumentError);
  const Dynamic layer({.channels = 3, .hidden = 4});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 4, 3});
  ssm::DynamicTensor<float, 3> wide({2, 4, 4});
  ssm::DynamicTensor<float, 3> swapped({4, 2, 3});
  ssm::DynamicTensor<float, 3> y({2, 4, 3});
  CHECK_THROWS_AS(layer.forward(ctx, p, wide, y), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, wide), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
}

}  // namespace
