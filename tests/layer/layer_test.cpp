// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/layer.hpp"

#include <doctest/doctest.h>

#include <numbers>
#include <utility>

#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/core/fill_random.hpp"
#include "ssm/layer/h3.hpp"

namespace {

using ssm::DynamicTensor;
using ssm::Index;

TEST_CASE("prefill takes slices of longer sequences, whatever the batch") {
  ssm::Context<ssm::Reference> ctx;
  const ssm::H3<ssm::H3Config{.channels = 6, .state = 4}> layer;
  const auto parameters = layer.initialize<double>(ctx, ssm::Seed{1});
  DynamicTensor<double, 3> x({3, 20, 6});
  DynamicTensor<double, 3> whole({3, 20, 6});
  DynamicTensor<double, 3> parts({3, 20, 6});
  ssm::fill_normal(x, ssm::Seed{2});
  layer.forward(ctx, parameters, x, whole);
  auto state = layer.initial_state<double>(ctx, 3);
  for (const auto& [begin, end] : {std::pair<Index, Index>{0, 11}, {11, 12}, {12, 20}})
    layer.prefill(ctx, parameters, x.slice(1, begin, end), parts.slice(1, begin, end), state);
  CHECK(ssm::all_close(parts, whole, ssm::tolerance<double>.value));
}

}  // namespace
