// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/sequential.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "ssm/layer/linear.hpp"
#include "ssm/layer/mean_pool.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"
#include "support/check_layer.hpp"

namespace ssm {
namespace {

template <Index In, Index Out>
using Map = Linear<LinearConfig{.inputs = In, .outputs = Out}>;
using AnyMap = Linear<LinearConfig{}>;
using AnyS4D = S4D<S4DConfig{.state = 4}>;

using Classifier = Sequential<Named<"encoder", Map<2, 3>>,
                              Residual<LayerNorm<3>, S4D<S4DConfig{.channels = 3, .state = 4}>>,
                              MeanPool<MeanPoolConfig{.channels = 3}>, Named<"head", Map<3, 5>>>;

template <class L>
std::vector<std::string> parameter_names(const L& layer) {
  Context<Reference> ctx;
  std::vector<std::string> names;
  const auto parameters = layer.template zero_parameters<float>(ctx);
  for_each_parameter([&](const ParameterSpec& spec, const auto&) { names.push_back(spec.name); },
                     parameters);
  return names;
}

TEST_CASE("blocks of different widths obey every law") {
  laws::check_layer(Classifier());
  laws::check_layer(Chain<Named<"up", Map<2, 4>>, Chain<AnyMap, AnyS4D>>(
      Map<2, 4>(), Chain(AnyMap({.inputs = 4, .outputs = 3}), AnyS4D({.channels = 3}))));
}

TEST_CASE("a sequence of blocks takes what the first takes and gives what the last gives") {
  CHECK(Classifier().inputs() == 2);
  CHECK(Classifier().outputs() == 5);
  const Chain<Map<2, 4>, Map<4, 3>> chain;
  CHECK(chain.inputs() == 2);
  CHECK(chain.outputs() == 3);
}

TEST_CASE("a name takes the place of the number, in parameters and in states") {
  const std::vector<std::string> names = parameter_names(Classifier());
  CHECK(names.front() == "encoder.weight");
  CHECK(names[2] == "layers.1.norm.weight");
  CHECK(names.back() == "head.bias");

  CHECK(parameter_names(Chain<Map<2, 4>, Named<"down", Map<4, 2>>>()) ==
        std::vector<std::string>{"weight", "bias", "down.weight", "down.bias"});

  const Sequential<Named<"first", AnyS4D>, AnyS4D> two(AnyS4D({.channels = 2}),
                                                       AnyS4D({.channels = 2}));
  Context<Reference> ctx;
  std::vector<std::string> states;
  auto state = two.initial_state<float>(ctx, 1);
  two.for_each_state([&](const std::string& name, auto&) { states.push_back(name); }, state);
  CHECK(states == std::vector<std::string>{"first.diagonal", "layers.1.diagonal"});
}

TEST_CASE("widths that do not fit are refused when the model is made, by position") {
  using Two = Sequential<Map<2, 8>, Map<4, 2>>;
  CHECK_THROWS_WITH_AS(Two(), "Sequential: block 0 gives 8 channels, block 1 takes 4",
                       ArgumentError);
  CHECK_THROWS_WITH_AS(Sequential(AnyMap({.inputs = 2, .outputs = 4}), Map<4, 8>(), Map<4, 2>()),
                       "Sequential: block 1 gives 8 channels, block 2 takes 4", ArgumentError);
  using Pair = Chain<Map<2, 8>, Map<4, 2>>;
  CHECK_THROWS_WITH_AS(Pair(), "Chain: the first layer gives 8 channels, the second takes 4",
                       ArgumentError);
  using Skip = Residual<LayerNorm<8>, Map<4, 8>>;
  CHECK_THROWS_WITH_AS(Skip(), "Residual: the norm gives 8 channels, the inner layer takes 4",
                       ArgumentError);
  CHECK_THROWS_WITH_AS((Residual(LayerNorm<8>(), Map<8, 4>())),
                       "Residual: the inner layer gives 4 channels, the sum takes 8",
                       ArgumentError);
  CHECK_THROWS_WITH_AS(
      Stack<AnyS4D>(std::vector<AnyS4D>{AnyS4D({.channels = 8}), AnyS4D({.channels = 4})}),
      "Stack: the block before gives 8 channels, block 1 takes 4", ArgumentError);
  using Wide = Map<4, 8>;
  CHECK_THROWS_WITH_AS(Stack<Wide>(std::vector<Wide>(1)),
                       "Stack: block 0 gives 8 channels, every block takes 4", ArgumentError);
}

}  // namespace
}  // namespace ssm
