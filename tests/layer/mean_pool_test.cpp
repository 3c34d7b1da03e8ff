// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/mean_pool.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/model/last_position.hpp"
#include "support/check_layer.hpp"
#include "support/test_tensor.hpp"

namespace ssm {
namespace {

TEST_CASE("MeanPool obeys every law, with its width in the type and at run time") {
  laws::check_layer(MeanPool<MeanPoolConfig{.channels = 3}>());
  laws::check_layer(MeanPool<MeanPoolConfig{}>({.channels = 5}));
}

TEST_CASE("every position has the mean of all so far, so that the last has that of the sequence") {
  const MeanPool<MeanPoolConfig{.channels = 2}> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  const auto x = test::tensor_of({1, 10, 3, 20, 8, 60});
  DynamicTensor<double, 3> y({1, 3, 2});
  layer.forward(ctx, p, x.reshape(1, 3, 2), y);
  const std::vector<double> expected{1, 10, 2, 15, 4, 30};
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(y.data()[i] == expected[i]);
  CHECK(last_position(y)(0, 0) == 4);
  CHECK(last_position(y)(0, 1) == 30);
}

TEST_CASE("packed sequences have a mean each, that of an empty one is its state") {
  const MeanPool<MeanPoolConfig{.channels = 1}> layer;
  Context<Reference> ctx;
  const auto p = layer.initialize<double>(ctx, Seed{1});
  const auto x = test::tensor_of({2, 4, 5, 7});
  DynamicTensor<double, 3> y({1, 4, 1});
  const std::vector<Index> segments{0, 2, 2, 4};
  auto state = layer.initial_state<double>(ctx, 3);
  layer.forward(ctx, p, x.reshape(1, 4, 1), y, {.segments = segments, .final_state = &state});
  CHECK(y(0, 1, 0) == 3);
  CHECK(y(0, 3, 0) == 6);
  CHECK(state.sum(1, 0) == 0);
  CHECK(state.position(1) == 0);
  CHECK(state.sum(2, 0) == 12);
  CHECK(state.position(2) == 2);
}

TEST_CASE("there is no last position of nothing, and widths are checked") {
  DynamicTensor<double, 3> y({1, 0, 2});
  CHECK_THROWS_WITH_AS(last_position(y), "last_position: y has no positions", ShapeError);
  const MeanPool<MeanPoolConfig{}> layer({.channels = 3});
  Context<Reference> ctx;
  DynamicTensor<double, 3> x({1, 4, 2}), z({1, 4, 2});
  CHECK_THROWS_WITH_AS(layer.forward(ctx, layer.initialize<double>(ctx, Seed{1}), x, z),
                       "MeanPool: x must be [1, 4, 3], got [1, 4, 2]", ShapeError);
}

}  // namespace
}  // namespace ssm
