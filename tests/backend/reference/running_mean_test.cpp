// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/running_mean.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("a mean goes on from the sum and the number of the positions before") {
  Context<Reference> ctx;
  const auto x = tensor_of({4, 6});
  const auto sum = tensor_of({5});
  DynamicTensor<std::int64_t, 1> position({1});
  position(0) = 2;
  auto y = nan_tensor(1, 2, 1);
  auto final_sum = nan_tensor(1, 1);
  running_mean(ctx, RunningMean<double, HostSpace>{.x = x.reshape(1, 2, 1),
                                                   .initial_sum = sum.reshape(1, 1),
                                                   .position = position,
                                                   .final_sum = final_sum,
                                                   .y = y});
  CHECK(y(0, 0, 0) == 3);
  CHECK(y(0, 1, 0) == 15.0 / 4);
  CHECK(final_sum(0, 0) == 15);
}

TEST_CASE("the gradient of a mean equals central differences, over packed sequences too") {
  Context<Reference> ctx;
  auto x = random_tensor("x", 1, 7, 3);
  const auto dy = random_tensor("dy", 1, 7, 3);
  auto y = nan_tensor(1, 7, 3), dx = nan_tensor(1, 7, 3);
  const std::vector<Index> segments{0, 3, 3, 7};
  running_mean_backward(
      ctx, RunningMeanBackward<double, HostSpace>{.segments = segments, .dy = dy, .dx = dx});
  const auto loss = [&] {
    running_mean(ctx, RunningMean<double, HostSpace>{.x = x, .segments = segments, .y = y});
    return inner_product(dy, y);
  };
  CHECK(gradient_error(loss, x, dx) < tolerance<double>.gradient);
}

TEST_CASE("means may overwrite what they are of, and their gradient dy") {
  Context<Reference> ctx;
  auto x = random_tensor("x", 2, 5, 3), y = nan_tensor(2, 5, 3);
  running_mean(ctx, RunningMean<double, HostSpace>{.x = x, .y = y});
  running_mean(ctx, RunningMean<double, HostSpace>{.x = x, .y = x});
  CHECK(difference(x, y) == 0);
  auto dy = random_tensor("dy", 2, 5, 3), dx = nan_tensor(2, 5, 3);
  running_mean_backward(ctx, RunningMeanBackward<double, HostSpace>{.dy = dy, .dx = dx});
  running_mean_backward(ctx, RunningMeanBackward<double, HostSpace>{.dy = dy, .dx = dy});
  CHECK(difference(dx, dy) == 0);
}

TEST_CASE("operands of a mean that do not fit are refused by name") {
  Context<Reference> ctx;
  auto x = zero_tensor(2, 5, 3), y = zero_tensor(2, 5, 4);
  const auto sum = zero_tensor(1, 3);
  CHECK_THROWS_WITH_AS(running_mean(ctx, RunningMean<double, HostSpace>{.x = x, .y = y}),
                       "running_mean: y must be [2, 5, 3], got [2, 5, 4]", ShapeError);
  CHECK_THROWS_WITH_AS(
      running_mean(ctx, RunningMean<double, HostSpace>{.x = x, .initial_sum = sum, .y = x}),
      "running_mean: initial_sum must be [2, 3], got [1, 3]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
