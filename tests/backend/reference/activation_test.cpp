// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/activation.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr ActivationKind kinds[] = {ActivationKind::none,      ActivationKind::relu,
                                    ActivationKind::gelu_tanh, ActivationKind::gelu_erf,
                                    ActivationKind::silu,      ActivationKind::sigmoid,
                                    ActivationKind::tanh,      ActivationKind::softplus};

TEST_CASE("each activation has its published value at one") {
  constexpr double half_of_last_digit = 0.5e-9;
  CHECK(reference::activate(ActivationKind::none, 1) == 1);
  CHECK(reference::activate(ActivationKind::relu, 1) == 1);
  CHECK(reference::activate(ActivationKind::relu, -1) == 0);
  CHECK(std::abs(reference::activate(ActivationKind::gelu_tanh, 1) - 0.841191991) <
        half_of_last_digit);
  CHECK(std::abs(reference::activate(ActivationKind::gelu_erf, 1) - 0.841344746) <
        half_of_last_digit);
  CHECK(std::abs(reference::activate(ActivationKind::silu, 1) - 0.731058579) < half_of_last_digit);
  CHECK(std::abs(reference::activate(ActivationKind::sigmoid, 1) - 0.731058579) <
        half_of_last_digit);
  CHECK(std::abs(reference::activate(ActivationKind::tanh, 1) - 0.761594156) < half_of_last_digit);
  CHECK(std::abs(reference::activate(ActivationKind::softplus, 1) - 1.313261688) <
        half_of_last_digit);
}

TEST_CASE("activations and slopes are finite far from zero") {
  for (const ActivationKind kind : kinds)
    for (const double x : {-1e4, -800.0, 800.0, 1e4}) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(x);
      const bool saturates = kind == ActivationKind::sigmoid || kind == ActivationKind::tanh;
      const double below = kind == ActivationKind::none ? x : kind == ActivationKind::tanh ? -1 : 0;
      const double limit = x < 0 ? below : saturates ? 1 : x;
      CHECK(reference::activate(kind, x) == limit);
      CHECK(reference::activation_slope(kind, x) == (limit == x ? 1 : 0));
    }
}

TEST_CASE("gradients equal central differences with and without a gate") {
  for (const ActivationKind kind : kinds)
    for (const bool gated : {false, true}) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(gated);
      Context<Reference> ctx;
      auto x = random_tensor("x", 4, 5);
      auto gate = random_tensor("gate", 4, 5);
      const auto dy = random_tensor("dy", 4, 5);
      auto y = nan_tensor(4, 5);
      auto dx = nan_tensor(4, 5);
      auto dgate = nan_tensor(4, 5);
      Activation<double, HostSpace> forward{.kind = kind, .x = x, .y = y};
      if (gated) forward.gate = gate;
      ActivationBackward<double, HostSpace> backward{.forward = forward, .dy = dy, .dx = dx};
      if (gated) backward.dgate = dgate;
      activation_backward(ctx, backward);
      const auto loss = [&] {
        activation(ctx, forward);
        return inner_product(dy, y);
      };
      CHECK(gradient_error(loss, x, dx) < tolerance<double>.gradient);
      if (gated) CHECK(gradient_error(loss, gate, dgate) < tolerance<double>.gradient);
    }
}

TEST_CASE("no activation with a gate is the elementwise product") {
  Context<Reference> ctx;
  const auto a = random_tensor("a", 4, 5);
  const auto b = random_tensor("b", 4, 5);
  auto product = nan_tensor(4, 5);
  activation(ctx, Activation<double, HostSpace>{.x = a, .gate = b, .y = product});
  for (Index i = 0; i < product.size(); ++i) CHECK(product.data()[i] == a.data()[i] * b.data()[i]);
}

TEST_CASE("results may overwrite their inputs") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 4, 5);
  const auto gate = random_tensor("gate", 4, 5);
  auto apart = nan_tensor(4, 5);
  activation(ctx, Activation<double, HostSpace>{
                      .kind = ActivationKind::silu, .x = x, .gate = gate, .y = apart});
  auto over_x = x.clone();
  activation(ctx, Activation<double, HostSpace>{
                      .kind = ActivationKind::silu, .x = over_x, .gate = gate, .y = over_x});
  CHECK(difference(over_x, apart) == 0);
  auto over_gate = gate.clone();
  activation(ctx, Activation<double, HostSpace>{
                      .kind = ActivationKind::silu, .x = x, .gate = over_gate, .y = over_gate});
  CHECK(difference(over_gate, apart) == 0);

  const Activation<double, HostSpace> forward{
      .kind = ActivationKind::gelu_tanh, .x = x, .gate = gate};
  auto dx = nan_tensor(4, 5);
  auto dgate = nan_tensor(4, 5);
  auto dy = random_tensor("dy", 4, 5);
  activation_backward(ctx, ActivationBackward<double, HostSpace>{
                               .forward = forward, .dy = dy, .dx = dx, .dgate = dgate});
  auto dgate_again = nan_tensor(4, 5);
  activation_backward(ctx, ActivationBackward<double, HostSpace>{
                               .forward = forward, .dy = dy, .dx = dy, .dgate = dgate_again});
  CHECK(difference(dy, dx) == 0);
  CHECK(difference(dgate_again, dgate) == 0);
}

TEST_CASE("a gate without a place for its gradient is refused") {
  Context<Reference> ctx;
  const auto x = zero_tensor(2, 3);
  auto dx = nan_tensor(2, 3);
  CHECK_THROWS_WITH_AS(activation_backward(ctx,
                                           ActivationBackward<double, HostSpace>{
                                               .forward = {.x = x, .gate = x}, .dy = x, .dx = dx}),
                       "activation_backward: dgate is missing", ShapeError);
}

}  // namespace
}  // namespace ssm::test
