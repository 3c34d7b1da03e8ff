// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <ssm/core/compare.hpp>

using ssm::DynamicTensor;
using ssm::Index;

namespace {
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("the largest difference has a value and a place, whatever the layouts") {
  DynamicTensor<float, 3> x({3, 65, 2});
  DynamicTensor<double, 3> y({2, 65, 3});
  y(1, 64, 2) = -0.5;
  y(0, 3, 1) = 0.25;
  const auto largest = ssm::largest_difference(x, y.transpose(0, 2));
  CHECK(largest.value == 0.5);
  CHECK(largest.scale == 0.5);
  CHECK(largest.index == std::array<Index, 3>{2, 64, 1});
}

TEST_CASE("equal tensors differ by nothing, at the first element") {
  const DynamicTensor<float, 2> x({2, 3});
  const auto largest = ssm::largest_difference(x, x);
  CHECK(largest.value == 0);
  CHECK(largest.index == std::array<Index, 2>{0, 0});
  const DynamicTensor<float, 2> none({0, 3});
  CHECK(ssm::largest_difference(none, none).value == 0);
  CHECK(ssm::all_close(none, none, 0));
}

TEST_CASE("a NaN equals nothing, not even itself") {
  DynamicTensor<double, 1> x(65);
  DynamicTensor<double, 1> y(65);
  x(64) = not_a_number;
  CHECK(ssm::largest_difference(x, y).value == infinity);
  CHECK(ssm::largest_difference(x, y).index[0] == 64);
  CHECK_FALSE(ssm::all_close(x, y, 1e300));
  CHECK_FALSE(ssm::all_close(y, x, 1e300));
  CHECK_FALSE(ssm::all_close(x, x, 1e300));
}

TEST_CASE("an infinity equals only itself, and does not widen the tolerance") {
  DynamicTensor<double, 1> x(2);
  DynamicTensor<double, 1> y(2);
  x(0) = y(0) = infinity;
  CHECK(ssm::all_close(x, y, 0));
  x(1) = 1;
  CHECK_FALSE(ssm::all_close(x, y, 0.5));
  x(1) = 0;
  y(0) = -infinity;
  CHECK_FALSE(ssm::all_close(x, y, 1e300));
  y(0) = 1;
  CHECK_FALSE(ssm::all_close(x, y, 1e300));
  CHECK_FALSE(ssm::all_close(y, x, 1e300));
}

TEST_CASE("the tolerance is relative to the largest expected element, but at least absolute") {
  DynamicTensor<double, 1> x(2);
  DynamicTensor<double, 1> y(2);
  x(0) = 0.25;
  CHECK(ssm::all_close(x, y, 0.25));
  CHECK_FALSE(ssm::all_close(x, y, 0.2));
  x(1) = y(1) = -100;
  CHECK(ssm::all_close(x, y, 0.0025));
  CHECK_FALSE(ssm::all_close(x, y, 0.002));
  y(1) = 0;  // a large element of the result does not count
  CHECK_FALSE(ssm::all_close(x, y, 0.5));
}

TEST_CASE("integers and halves are compared as numbers") {
  DynamicTensor<std::int64_t, 1> x(1);
  DynamicTensor<ssm::BFloat16, 1> y(1);
  x(0) = 3;
  y(0) = ssm::BFloat16(2.5F);
  CHECK(ssm::largest_difference(x, y).value == 0.5);
}

TEST_CASE("tensors of other extents are refused, not unequal") {
  const DynamicTensor<float, 2> x({2, 3});
  const DynamicTensor<float, 2> y({3, 2});
  CHECK_THROWS_AS(ssm::all_close(x, y, 1), ssm::ShapeError);
}
