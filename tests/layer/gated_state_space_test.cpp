// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/gated_state_space.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "ssm/backend/reference.hpp"

namespace {

using namespace ssm;

TEST_CASE("GatedStateSpace with an SSM that passes its input on is a gated unit") {
  const GatedStateSpace<GatedStateSpaceConfig{
      .channels = 2, .gate_channels = 3, .state_channels = 2, .state = 4}>
      layer;
  Context<Reference> ctx;
  auto p = layer.initialize<double>(ctx, Seed{3});
  fill(p.diagonal.C, 0.0);  // only the skip is left
  fill(p.diagonal.D, 1.0);
  DynamicTensor<double, 3> x({1, 1, 2}), y({1, 1, 2});
  x(0, 0, 0) = 0.3;
  x(0, 0, 1) = -0.7;
  layer.forward(ctx, p, x, y);
  const auto gelu = [](double u) {
    return u / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (u + 0.044715 * u * u * u)));
  };
  const auto row = [](const auto& linear, Index o, auto&& input) {
    double sum = linear.bias(o);
    for (Index i = 0; i < linear.weight.extent(1); ++i) sum += linear.weight(o, i) * input(i);
    return sum;
  };
  const auto in = [&](Index i) { return x(0, 0, i); };
  const auto u = [&](Index i) { return gelu(row(p.to_state, i, in)); };
  const auto mixed = [&](Index f) { return row(p.lift, f, u) * gelu(row(p.to_gate, f, in)); };
  for (Index o = 0; o < 2; ++o)
    CHECK(std::abs(y(0, 0, o) - row(p.out_proj, o, mixed)) <= tolerance<double>.value);
}

}  // namespace
