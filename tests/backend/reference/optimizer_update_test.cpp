// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/optimizer_update.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("two steps give the hand-worked numbers") {
  Context<Reference> ctx;
  auto parameter = tensor_of({1.0});
  auto gradient = tensor_of({4.0});
  auto first = zero_tensor(1);
  auto second = zero_tensor(1);
  AdamWUpdate<double, HostSpace> call{.rate = 0.1,
                                      .beta1 = 0.5,
                                      .beta2 = 0.75,
                                      .eps = 1,
                                      .weight_decay = 0.5,
                                      .gradient_scale = 0.5,
                                      .parameter = parameter,
                                      .gradient = gradient,
                                      .first_moment = first,
                                      .second_moment = second};
  adamw_update(ctx, call);
  // g = 2: m = 1, v = 1, both corrected to 2 and 4, so the direction is 2 / (2 + 1)
  CHECK(first(0) == 1);
  CHECK(second(0) == 1);
  const double after_one = 1 - 0.1 * 0.5 - 0.1 * 2 / 3;
  CHECK(std::abs(parameter(0) - after_one) < tolerance<double>.value);
  call.step = 2;
  gradient(0) = -2;  // g = −1: m = 0, v = 1
  adamw_update(ctx, call);
  CHECK(first(0) == 0);
  CHECK(second(0) == 1);
  CHECK(std::abs(parameter(0) - after_one * (1 - 0.1 * 0.5)) < tolerance<double>.value);
}

TEST_CASE("the first step without eps moves every element by the rate, whatever its gradient") {
  Context<Reference> ctx;
  auto parameter = zero_tensor(65);
  const auto gradient = random_tensor("gradient", 65);
  auto first = zero_tensor(65);
  auto second = zero_tensor(65);
  adamw_update(ctx, AdamWUpdate<double, HostSpace>{.rate = 0.01,
                                                   .eps = 0,
                                                   .parameter = parameter,
                                                   .gradient = gradient,
                                                   .first_moment = first,
                                                   .second_moment = second});
  for (Index i = 0; i < 65; ++i)
    CHECK(std::abs(parameter(i) - (gradient(i) > 0 ? -0.01 : 0.01)) < tolerance<double>.value);
}

TEST_CASE("squares are added to the sum of other tensors, in double") {
  Context<Reference> ctx;
  const auto x = tensor_of<float>({3, -4});
  auto sum = tensor_of({100});
  sum_of_squares(ctx, SumOfSquares<float, HostSpace>{.x = x, .sum = sum});
  CHECK(sum(0) == 125);
  const auto large = tensor_of<float>({1e30});
  sum_of_squares(ctx, SumOfSquares<float, HostSpace>{.x = large, .sum = sum});
  CHECK(sum(0) == doctest::Approx(1e60).epsilon(tolerance<float>.value));
}

TEST_CASE("moments of another length are named") {
  Context<Reference> ctx;
  auto three = zero_tensor(3);
  auto two = zero_tensor(2);
  CHECK_THROWS_WITH_AS(adamw_update(ctx, AdamWUpdate<double, HostSpace>{.parameter = three,
                                                                        .gradient = three,
                                                                        .first_moment = two,
                                                                        .second_moment = three}),
                       "adamw_update: first_moment must be [3], got [2]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
