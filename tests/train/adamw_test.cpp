// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/adamw.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/laws/allocation_count.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/shift_ssm.hpp"

namespace ssm::test {
namespace {

using Number = Linear<LinearConfig{.inputs = 1, .outputs = 1, .bias = false}>;
using Shift = ShiftSsm<ShiftSsmConfig{.channels = 2, .state = 3}>;

bool close(double x, double y) { return std::abs(x - y) <= tolerance<double>.value; }

/// One weight and its gradient, with an optimizer whose arithmetic can be followed by hand.
struct OneWeight {
  explicit OneWeight(AdamWConfig config)
      : parameters(layer.zero_parameters<double>(ctx)),
        gradients(layer.zero_parameters<double>(ctx)),
        optimizer(ctx, layer, parameters, config) {
    weight() = 1;
  }
  double& weight() { return parameters.weight(0, 0); }
  double update(double gradient, double rate) {
    gradients.weight(0, 0) = gradient;
    return optimizer.update(ctx, parameters, gradients, rate);
  }

  Context<Reference> ctx;
  Number layer;
  Number::Parameters<double> parameters;
  Number::Parameters<double> gradients;
  AdamW<Number::Parameters<double>> optimizer;
};

template <class P>
void fill_all(P& parameters, double value) {
  for_each_parameter(
      [&](const ParameterSpec&, auto& tensor) {
        for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] = value;
      },
      parameters);
}

TEST_CASE("two updates give the numbers worked out by hand") {
  OneWeight one({.rate = 0.1, .beta1 = 0.5, .beta2 = 0.5, .eps = 0.5, .weight_decay = 0.1});
  CHECK(close(one.update(0.5, 0.1), 0.5));
  // m = 0.25, v = 0.125; unbiased 0.5 and 0.25; p = 1 − 0.1·0.1·1 − 0.1·0.5/(0.5 + 0.5)
  CHECK(close(one.weight(), 0.94));
  CHECK(close(one.optimizer.first_moment().weight(0, 0), 0.25));
  CHECK(close(one.optimizer.second_moment().weight(0, 0), 0.125));
  one.update(-0.5, 0.1);
  // m = −0.125, v = 0.1875; unbiased −1/6 and 0.25; p = 0.94·0.99 + 0.1/6
  CHECK(close(one.weight(), 0.94 * 0.99 + 0.1 / 6));
  CHECK(close(one.optimizer.first_moment().weight(0, 0), -0.125));
  CHECK(close(one.optimizer.second_moment().weight(0, 0), 0.1875));
  CHECK(one.optimizer.step() == 2);
}

TEST_CASE("clipping scales the gradient and reports its norm before") {
  OneWeight clipped({.rate = 0.1, .beta1 = 0.5, .weight_decay = 0, .clip_norm = 1});
  CHECK(close(clipped.update(4, 0.1), 4));
  CHECK(close(clipped.optimizer.first_moment().weight(0, 0), 0.5 * 4 / (4 + 1e-6)));
  OneWeight small({.rate = 0.1, .beta1 = 0.5, .weight_decay = 0, .clip_norm = 1});
  small.update(0.25, 0.1);
  CHECK(close(small.optimizer.first_moment().weight(0, 0), 0.125));
}

TEST_CASE("a rate of zero changes the moments and no parameter") {
  OneWeight one({.rate = 0.1});
  one.update(0.5, 0);
  CHECK(one.weight() == 1);
  CHECK(one.optimizer.first_moment().weight(0, 0) != 0);
}

TEST_CASE("weight decay leaves out the tensors that refuse it") {
  Context<Reference> ctx;
  const Shift layer;
  auto parameters = layer.zero_parameters<double>(ctx);
  const auto gradients = layer.zero_parameters<double>(ctx);
  fill_all(parameters, 1);
  AdamW optimizer(ctx, layer, parameters, {.rate = 0.5, .weight_decay = 0.2});
  optimizer.update(ctx, parameters, gradients, 0.5);
  CHECK(parameters.B(1, 2) == 1);
  CHECK(close(parameters.C(0, 1, 2), 0.9));
  CHECK(close(parameters.D(1), 0.9));
}

TEST_CASE("norms and biases decay only where they are told to") {
  CHECK_FALSE(AdamWConfig{}.decay_norms_and_biases);
  Context<Reference> ctx;
  const LayerNorm<2> layer;
  for (const bool decay : {true, false}) {
    auto parameters = layer.zero_parameters<double>(ctx);
    const auto gradients = layer.zero_parameters<double>(ctx);
    fill_all(parameters, 1);
    AdamW optimizer(ctx, layer, parameters,
                    {.rate = 0.5, .weight_decay = 0.2, .decay_norms_and_biases = decay});
    optimizer.update(ctx, parameters, gradients, 0.5);
    CHECK(close(parameters.weight(0), decay ? 0.9 : 1));
    CHECK(close(parameters.bias(1), decay ? 0.9 : 1));
  }
}

TEST_CASE("SSM dynamics move at their own rate, which follows the schedule") {
  Context<Reference> ctx;
  const Shift layer;
  auto parameters = layer.zero_parameters<double>(ctx);
  auto gradients = layer.zero_parameters<double>(ctx);
  fill_all(gradients, 1);
  AdamW optimizer(ctx, layer, parameters,
                  {.rate = 0.4, .ssm_rate = 0.1, .eps = 1e-15, .weight_decay = 0});
  optimizer.update(ctx, parameters, gradients, 0.2);  // half of the base
  CHECK(close(parameters.B(0, 0), -0.05));
  CHECK(close(parameters.C(0, 0, 0), -0.2));
}

TEST_CASE("the SSM rate is the same as the rate unless it is given") {
  const OneWeight fast({.rate = 0.1});
  const OneWeight given({.rate = 0.1, .ssm_rate = 0.02});
  CHECK(fast.optimizer.config().ssm_rate == 0.1);
  CHECK(given.optimizer.config().ssm_rate == 0.02);
}

TEST_CASE("a gradient that is not finite changes nothing and is reported") {
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    OneWeight one({.rate = 0.1}), same({.rate = 0.1});
    CHECK(one.update(0.5, 0.1) == same.update(0.5, 0.1));
    CHECK_FALSE(std::isfinite(one.update(bad, 0.1)));
    CHECK(one.weight() == same.weight());
    CHECK(one.optimizer.step() == 1);
    CHECK(one.update(0.25, 0.1) == same.update(0.25, 0.1));
    CHECK(one.weight() == same.weight());
    CHECK(one.optimizer.first_moment().weight(0, 0) == same.optimizer.first_moment().weight(0, 0));
  }
}

template <class B>
std::size_t allocations_of_later_updates(Context<B>&& ctx) {
  const Linear<LinearConfig{.inputs = 300, .outputs = 200}> layer;
  auto parameters = layer.template initialize<float>(ctx, Seed{1});
  const auto gradients = layer.template initialize<float>(ctx, Seed{2});
  AdamW optimizer(ctx, layer, parameters, {.clip_norm = 1});
  optimizer.update(ctx, parameters, gradients);
  const std::size_t before = laws::allocation_count();
  for (int i = 0; i < 3; ++i) optimizer.update(ctx, parameters, gradients);
  return laws::allocation_count() - before;
}

TEST_CASE("an update allocates nothing after the first") {
  CHECK(allocations_of_later_updates(Context<Reference>()) == 0);
  CHECK(allocations_of_later_updates(Context<Cpu>(cpu::Resources(2))) == 0);
}

TEST_CASE("an optimizer given its moments and step goes on as if it had never stopped") {
  OneWeight whole({.rate = 0.1, .clip_norm = 1});
  OneWeight resumed({.rate = 0.1, .clip_norm = 1});
  const double gradients[] = {0.5, -3, 0.25, 0.125};
  for (const double gradient : gradients) whole.update(gradient, 0.1);
  OneWeight before({.rate = 0.1, .clip_norm = 1});
  before.update(gradients[0], 0.1);
  before.update(gradients[1], 0.1);
  resumed.weight() = before.weight();
  resumed.optimizer.first_moment() = {{}, before.optimizer.first_moment().weight.clone(), {}};
  resumed.optimizer.second_moment() = {{}, before.optimizer.second_moment().weight.clone(), {}};
  resumed.optimizer.set_step(2);
  resumed.update(gradients[2], 0.1);
  resumed.update(gradients[3], 0.1);
  CHECK(resumed.weight() == whole.weight());
}

TEST_CASE("options outside their range are refused") {
  CHECK_THROWS_AS(OneWeight({.rate = 0}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.rate = std::nan("")}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.beta1 = 1}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.beta2 = -0.1}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.eps = 0}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.weight_decay = -1}), ArgumentError);
  CHECK_THROWS_AS(OneWeight({.clip_norm = -1}), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
