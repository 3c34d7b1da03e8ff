// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/shift_ssm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "support/backends.hpp"

namespace {

using ssm::dyn;
using ssm::Index;
using ssm::ShiftSsmConfig;

TEST_CASE("a state of 64 reaches exactly 64 positions back") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const ssm::ShiftSsm<ShiftSsmConfig{.channels = 1}> layer;
    ssm::Context<B> ctx;
    const auto p = layer.template initialize<T>(ctx, ssm::Seed{1});
    ssm::DynamicTensor<T, 3> x({1, 100, 1});
    ssm::fill(x, 0);
    x(0, 0, 0) = T{1};
    ssm::DynamicTensor<T, 3> y({1, 100, 1});
    layer.forward(ctx, p, x, y);  // B is the first unit vector: the response to a pulse is C
    CHECK(std::abs(y(0, 0, 0) - (p.C(0, 0, 0) + p.D(0))) <= ssm::tolerance<T>.value);
    for (Index t = 1; t < 64; ++t)
      CHECK(std::abs(y(0, t, 0) - p.C(0, 0, t)) <= ssm::tolerance<T>.value);
    for (Index t = 64; t < 100; ++t) CHECK(std::abs(y(0, t, 0)) <= ssm::tolerance<T>.value);
  });
}

TEST_CASE("the state is the last N inputs, the newest first") {
  const ssm::ShiftSsm<ShiftSsmConfig{.channels = 1, .state = 3}> layer;
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.initialize<double>(ctx, ssm::Seed{1});
  ssm::DynamicTensor<double, 3> x({1, 5, 1});
  for (Index t = 0; t < 5; ++t) x(0, t, 0) = static_cast<double>(t);
  ssm::DynamicTensor<double, 3> y({1, 5, 1});
  auto state = layer.initial_state<double>(ctx, 1);
  layer.prefill(ctx, p, x, y, state);
  CHECK(state.shift(0, 0, 0) == 4.0);
  CHECK(state.shift(0, 0, 1) == 3.0);
  CHECK(state.shift(0, 0, 2) == 2.0);
}

TEST_CASE(
    "ShiftSsm starts as the published one: B a unit vector, C uniform within one over the root of "
    "N") {
  const ssm::ShiftSsm<ShiftSsmConfig{}> layer({.channels = 50});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.initialize<double>(ctx, ssm::Seed{5});
  double largest = 0;
  double skip = 0;
  for (Index d = 0; d < 50; ++d) {
    skip += p.D(d) * p.D(d) / 50;
    for (Index n = 0; n < 64; ++n) {
      CHECK(p.B(d, n) == (n == 0 ? 1.0 : 0.0));
      largest = std::max(largest, std::abs(p.C(0, d, n)));
    }
  }
  CHECK(largest <= 0.125);
  CHECK(largest > 0.12);
  CHECK(std::abs(skip - 1) < 0.6);  // the mean of 50 squares of normal numbers, three deviations
}

TEST_CASE("ShiftSsm names its parameters as checkpoints do and trains only B as dynamics") {
  const ssm::ShiftSsm<ShiftSsmConfig{.channels = 2, .state = 3}> layer;
  ssm::Context<ssm::Reference> ctx;
  auto p = layer.zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) {
        names.push_back(spec.name);
        CHECK(spec.role == ssm::ParameterRole::ssm);
        CHECK(spec.weight_decay == (names.size() != 1));
        CHECK(spec.own_learning_rate == (names.size() == 1));
      },
      p);
  CHECK(names ==
        std::vector<std::string>{"ssm_k_kernel.kernel.B", "ssm_k_kernel.kernel.C", "ssm_k_D"});
}

TEST_CASE("ShiftSsm refuses impossible sizes and states of another batch") {
  using Dynamic = ssm::ShiftSsm<ShiftSsmConfig{.state = dyn}>;
  CHECK_THROWS_AS(Dynamic({.channels = 0, .state = 3}), ssm::ArgumentError);
  const Dynamic layer({.channels = 3, .state = 4});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({2, 5, 3});
  ssm::DynamicTensor<float, 3> swapped({5, 2, 3});
  ssm::DynamicTensor<float, 3> y({2, 5, 3});
  auto one = layer.initial_state(ctx, 1);
  auto two = layer.initial_state(ctx, 2);
  CHECK_THROWS_AS(layer.prefill(ctx, p, x, y, one), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
  CHECK_NOTHROW(layer.prefill(ctx, p, x, y, two));
}

}  // namespace
