// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/dropout.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("kept elements are scaled so that the mean stays") {
  Context<Reference> ctx;
  const Index n = 100'000;
  auto x = zero_tensor(n);
  for (Index i = 0; i < n; ++i) x(i) = 3;
  dropout(ctx, Dropout<double, HostSpace>{.probability = 0.25, .seed = Seed{1}, .x = x, .y = x});
  Index dropped = 0;
  for (Index i = 0; i < n; ++i) {
    if (x(i) == 0) ++dropped;
    CHECK_UNARY(x(i) == 0 || x(i) == 4);
  }
  // five standard deviations of a binomial with n·p = 25 000
  CHECK(std::abs(static_cast<double>(dropped) - 25'000) < 5 * std::sqrt(25'000 * 0.75));
}

TEST_CASE("the mask follows from the seed alone, so that the gradient is the same call") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 65);
  auto y = nan_tensor(65);
  auto dx = nan_tensor(65);
  auto ones = zero_tensor(65);
  for (Index i = 0; i < 65; ++i) ones(i) = 1;
  Dropout<double, HostSpace> call{.probability = 0.5, .seed = Seed{3}, .x = x, .y = y};
  dropout(ctx, call);
  call.x = ones;
  call.y = dx;
  dropout(ctx, call);
  for (Index i = 0; i < 65; ++i)
    CHECK(y(i) == doctest::Approx(x(i) * dx(i)).epsilon(tolerance<double>.value));
  auto other = nan_tensor(65);
  call.seed = Seed{4};
  call.y = other;
  dropout(ctx, call);
  CHECK(difference(other, dx) > tolerance<double>.value);
}

TEST_CASE("probability zero changes nothing and one is refused") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 64);
  auto y = nan_tensor(64);
  dropout(ctx, Dropout<double, HostSpace>{.x = x, .y = y});
  CHECK(difference(y, x) == 0);
  for (const double probability : {1.0, -0.1, std::nan("")}) {
    const Dropout<double, HostSpace> call{.probability = probability, .x = x, .y = y};
    CHECK_THROWS_AS(dropout(ctx, call), ArgumentError);
  }
}

}  // namespace
}  // namespace ssm::test
