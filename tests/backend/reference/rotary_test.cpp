// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("channel j turns with channel j + r/2 and the rest stays") {
  Context<Reference> ctx;
  const auto x = tensor_of({1, 2, 3, 4, 5});
  auto y = nan_tensor(1, 1, 1, 5);
  constexpr double base = 4;
  rotary(ctx, Rotary<double, HostSpace>{
                  .dimension = 4, .base = base, .position = 3, .x = x.reshape(1, 1, 1, 5), .y = y});
  const double first = 3;
  const double second = 3 / 2.0;  // base^(−2/4)
  CHECK(difference(y, tensor_of({std::cos(first) - 3 * std::sin(first),
                                 2 * std::cos(second) - 4 * std::sin(second),
                                 3 * std::cos(first) + std::sin(first),
                                 4 * std::cos(second) + 2 * std::sin(second), 5})
                          .reshape(1, 1, 1, 5)) < tolerance<double>.value);
}

TEST_CASE("the opposite direction undoes a rotation, in place") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 3, 65, 2, 6);
  auto y = x.clone();
  rotary(ctx, Rotary<double, HostSpace>{.dimension = 6, .position = 7, .x = y, .y = y});
  CHECK(difference(y, x) > tolerance<double>.value);
  rotary(ctx,
         Rotary<double, HostSpace>{.dimension = 6, .position = 7, .direction = -1, .x = y, .y = y});
  CHECK(difference(y, x) < tolerance<double>.value);
}

TEST_CASE("positions go on after a chunk and start again in every segment") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 1, 9, 2, 4);
  auto whole = nan_tensor(1, 9, 2, 4);
  rotary(ctx, Rotary<double, HostSpace>{.dimension = 4, .x = x, .y = whole});
  auto rest = nan_tensor(1, 5, 2, 4);
  rotary(ctx, Rotary<double, HostSpace>{
                  .dimension = 4, .position = 4, .x = x.slice(1, 4, 9), .y = rest});
  CHECK(difference(rest, whole.slice(1, 4, 9)) == 0);

  const std::vector<Index> offsets{0, 4, 4, 9};
  auto packed = nan_tensor(1, 9, 2, 4);
  rotary(ctx, Rotary<double, HostSpace>{.dimension = 4, .segments = offsets, .x = x, .y = packed});
  rotary(ctx, Rotary<double, HostSpace>{.dimension = 4, .x = x.slice(1, 4, 9), .y = rest});
  CHECK(difference(packed.slice(1, 0, 4), whole.slice(1, 0, 4)) == 0);
  CHECK(difference(packed.slice(1, 4, 9), rest) == 0);
}

TEST_CASE("every sequence starts at its own position, packed or not") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 1, 12, 2, 4);
  const auto alone = [&](const View<const double, 4>& part, Index position) {
    auto y = nan_tensor(1, part.extent(1), 2, 4);
    rotary(ctx, Rotary<double, HostSpace>{.dimension = 4, .position = position, .x = part, .y = y});
    return y;
  };
  const std::vector<Index> offsets{0, 4, 4, 12};
  const std::vector<std::int64_t> starts{7, 3, 1};
  auto y = nan_tensor(1, 12, 2, 4);
  rotary(ctx, Rotary<double, HostSpace>{
                  .dimension = 4, .positions = starts, .segments = offsets, .x = x, .y = y});
  CHECK(difference(y.slice(1, 0, 4), alone(x.slice(1, 0, 4), 7)) == 0);
  CHECK(difference(y.slice(1, 4, 12), alone(x.slice(1, 4, 12), 1)) == 0);

  const auto batch = x.reshape(3, 4, 2, 4);
  auto rows = nan_tensor(3, 4, 2, 4);
  rotary(ctx,
         Rotary<double, HostSpace>{.dimension = 4, .positions = starts, .x = batch, .y = rows});
  for (Index b = 0; b < 3; ++b)
    CHECK(difference(rows.slice(0, b, b + 1),
                     alone(batch.slice(0, b, b + 1), starts[static_cast<std::size_t>(b)])) == 0);

  const std::vector<std::int64_t> too_few{7, 3};
  const Rotary<double, HostSpace> call{
      .dimension = 4, .positions = too_few, .segments = offsets, .x = x, .y = y};
  CHECK_THROWS_AS(rotary(ctx, call), ShapeError);
}

TEST_CASE("an odd or too large number of rotated channels is refused") {
  Context<Reference> ctx;
  const auto x = zero_tensor(1, 1, 1, 4);
  auto y = nan_tensor(1, 1, 1, 4);
  for (const Index dimension : {3, 6, -2}) {
    const Rotary<double, HostSpace> call{.dimension = dimension, .x = x, .y = y};
    CHECK_THROWS_AS(rotary(ctx, call), ShapeError);
  }
}

}  // namespace
}  // namespace ssm::test
