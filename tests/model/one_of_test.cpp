// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/one_of.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/shift_ssm.hpp"
#include "ssm/model/stack.hpp"

namespace {

using namespace ssm;
using Shift = ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>;
using Scan = DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 2}>;
using Mixer = OneOf<Shift, LayerNorm<3>, Scan>;

/// Outputs and gradients of a layer, from one seed.
template <class L>
std::vector<DynamicTensor<double, 3>> results(const L& layer) {
  Context<Reference> ctx;
  DynamicTensor<double, 3> x({2, 7, 3}), y({2, 7, 3}), dy({2, 7, 3}), dx({2, 7, 3}),
      chunks({2, 7, 3});
  fill_normal(x, Seed{1});
  fill_normal(dy, Seed{2});
  const auto p = layer.template initialize<double>(ctx, Seed{3});
  auto gradients = layer.template zero_parameters<double>(ctx);
  auto tape = layer.template make_tape<double>();
  layer.forward(ctx, p, x, y, tape);
  layer.backward(ctx, p, tape, dy, dx, gradients);
  auto state = layer.template initial_state<double>(ctx, 2);
  layer.prefill(ctx, p, x.slice(1, 0, 3), chunks.slice(1, 0, 3), state);
  typename L::template State<double> other;  // takes the kind of what is copied to it
  copy_state<L>(ctx, state, other);
  layer.prefill(ctx, p, x.slice(1, 3, 7), chunks.slice(1, 3, 7), other);
  std::vector<DynamicTensor<double, 3>> all;
  all.push_back(std::move(y));
  all.push_back(std::move(dx));
  all.push_back(std::move(chunks));
  L::for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        all.emplace_back(DynamicExtents<3>(1, 1, tensor.size()));
        std::copy_n(tensor.data(), tensor.size(), all.back().data());
      },
      gradients);
  return all;
}

template <class L>
std::vector<std::string> names(const L& layer) {
  Context<Reference> ctx;
  std::vector<std::string> all;
  const auto p = layer.initialize(ctx, Seed{1});
  for_each_parameter([&](const ParameterSpec& spec, const auto&) { all.push_back(spec.name); }, p);
  return all;
}

template <class L>
void check_as(const L& layer, std::size_t kind) {
  CAPTURE(kind);
  const Mixer mixer(layer);
  CHECK(mixer.kind() == kind);
  CHECK(mixer.channels() == 3);
  CHECK(names(mixer) == names(layer));
  const auto expected = results(layer), actual = results(mixer);
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) CHECK(all_close(actual[i], expected[i], 0));
}

TEST_CASE("one of three kinds is that kind: names, outputs, gradients and states") {
  check_as(Shift(), 0);
  check_as(LayerNorm<3>(), 1);
  check_as(Scan(), 2);
}

TEST_CASE("a stack of three kinds, each at its place") {
  Context<Reference> ctx;
  const Stack<Mixer> stack({Mixer(Scan()), Mixer(Shift()), Mixer(LayerNorm<3>())});
  const auto p = stack.initialize<double>(ctx, Seed{3});
  DynamicTensor<double, 3> x({1, 9, 3}), whole({1, 9, 3}), steps({1, 9, 3});
  fill_normal(x, Seed{1});
  stack.forward(ctx, p, x, whole);
  auto state = stack.initial_state<double>(ctx, 1);
  for (Index t = 0; t < 9; ++t) stack.step(ctx, p, x.select(1, t), steps.select(1, t), state);
  CHECK(all_close(steps, whole, tolerance<double>.value));
}

TEST_CASE("parameters and states of another kind are refused") {
  Context<Reference> ctx;
  const Mixer shift{Shift()}, scan{Scan()};
  const auto p = shift.initialize<double>(ctx, Seed{1});
  DynamicTensor<double, 3> x({1, 4, 3}), y({1, 4, 3});
  fill(x, 0.0);
  CHECK_THROWS_AS(scan.forward(ctx, p, x, y), ArgumentError);
  const auto state = scan.initial_state<double>(ctx, 1);
  CHECK_THROWS_AS(shift.forward(ctx, p, x, y, {.initial_state = &state}), ArgumentError);
}

}  // namespace
