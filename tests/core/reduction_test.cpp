// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/core/reduction.hpp>
#include <type_traits>
#include <vector>

using ssm::DynamicTensor;
using ssm::Index;
using ssm::Seed;

namespace {
constexpr Index lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 1000};
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

template <class T>
DynamicTensor<T, 3> normal(Index a, Index b, Index c) {
  DynamicTensor<T, 3> x({a, b, c});
  ssm::fill_normal(x, Seed{1});
  return x;
}
}  // namespace

TEST_CASE("sum, mean, dot and norm equal plain loops at every length") {
  for (const Index length : lengths) {
    const auto x = normal<float>(3, length, 2);
    const auto y = normal<double>(3, length, 2);
    double sum = 0;
    double dot = 0;
    double squares = 0;
    for (Index i = 0; i < x.size(); ++i) {
      const double a = x.data()[i];
      sum += a;
      dot += a * y.data()[i];
      squares += a * a;
    }
    const double tolerance = ssm::tolerance<double>.value;
    CHECK(std::abs(ssm::sum(x) - sum) < tolerance);
    CHECK(std::abs(ssm::mean(x) - sum / static_cast<double>(x.size())) < tolerance);
    CHECK(std::abs(ssm::dot(x, y) - dot) < tolerance);
    CHECK(std::abs(ssm::norm(x) - std::sqrt(squares)) < tolerance);
  }
}

TEST_CASE("sums are the same bits for every layout of the same elements") {
  const auto x = normal<double>(3, 65, 7);
  DynamicTensor<double, 3> stored({7, 3, 65});
  const auto y = stored.transpose(0, 1).transpose(1, 2);
  ssm::copy(x, y);
  CHECK(ssm::sum(y) == ssm::sum(x));
  CHECK(ssm::norm(y) == ssm::norm(x));
  CHECK(ssm::dot(x, y) == ssm::dot(x, x));
}

TEST_CASE("sums of many small numbers after a large one keep them") {
  DynamicTensor<float, 1> x(1 << 20);
  ssm::fill(x, 0.1);
  x(0) = 16'777'216.0F;  // one more float added to it in float would be lost
  const double expected = 16'777'216.0 + ((1 << 20) - 1) * static_cast<double>(0.1F);
  CHECK(std::abs(ssm::sum(x) - expected) < ssm::tolerance<double>.value * expected);
}

TEST_CASE("integers are summed exactly in 64 bits") {
  DynamicTensor<std::int32_t, 1> x(1000);
  ssm::fill(x, std::numeric_limits<std::int32_t>::max());
  CHECK(ssm::sum(x) == std::int64_t{1000} * std::numeric_limits<std::int32_t>::max());
  DynamicTensor<std::int64_t, 1> y(2);
  y(0) = (std::int64_t{1} << 53) + 1;
  CHECK(ssm::sum(y) == (std::int64_t{1} << 53) + 1);
}

TEST_CASE("min and max find the ends, and a NaN if there is one") {
  auto x = normal<float>(2, 65, 3);
  x(1, 30, 2) = -100;
  x(0, 64, 0) = 100;
  CHECK(ssm::min(x) == -100.0F);
  CHECK(ssm::max(x.transpose(0, 2)) == 100.0F);
  x(0, 1, 1) = static_cast<float>(not_a_number);
  CHECK(std::isnan(ssm::min(x)));
  CHECK(std::isnan(ssm::max(x.transpose(0, 1))));
}

TEST_CASE("a NaN in an early row is not forgotten in later ones") {
  DynamicTensor<double, 2> x({3, 4});
  x(0, 1) = not_a_number;
  CHECK(std::isnan(ssm::max(x.slice(1, 0, 2))));
  CHECK(std::isnan(ssm::min(x.slice(1, 0, 2))));
}

TEST_CASE("halves are reduced as floats") {
  DynamicTensor<ssm::BFloat16, 1> x(3);
  ssm::fill(x, 1.5);
  static_assert(std::is_same_v<decltype(ssm::max(x)), float>);
  CHECK(ssm::max(x) == 1.5F);
  CHECK(ssm::sum(x) == 4.5);
}

TEST_CASE("reductions along each axis equal the reductions of the selected lines") {
  const auto x = normal<float>(3, 65, 2);
  const auto y = normal<float>(3, 65, 2).clone();
  for (int axis = 0; axis < 3; ++axis) {
    const auto sums = ssm::sum(x, axis);
    const auto means = ssm::mean(x, axis);
    const auto norms = ssm::norm(x, axis);
    const auto dots = ssm::dot(x, y, axis);
    const auto least = ssm::min(x, axis);
    const auto maximum = ssm::max(x, axis);
    const int first = axis == 0 ? 1 : 0;
    const int second = axis == 2 ? 1 : 2;
    CHECK(sums.extent(0) == x.extent(first));
    CHECK(sums.extent(1) == x.extent(second));
    for (Index i = 0; i < x.extent(first); ++i) {
      for (Index j = 0; j < x.extent(second); ++j) {
        const auto line = x.select(second, j).select(first, i);
        CHECK(sums(i, j) == ssm::sum(line));
        CHECK(means(i, j) == ssm::mean(line));
        CHECK(norms(i, j) == ssm::norm(line));
        CHECK(dots(i, j) == ssm::dot(line, line));
        CHECK(least(i, j) == ssm::min(line));
        CHECK(maximum(i, j) == ssm::max(line));
      }
    }
  }
}

TEST_CASE("a vector reduces along its only axis to a tensor without axes") {
  DynamicTensor<double, 1> x(3);
  ssm::fill(x, 2);
  CHECK(ssm::sum(x, 0)() == 6);
}

TEST_CASE("nothing sums to zero, and has no mean, smallest or largest element") {
  const DynamicTensor<float, 2> none({0, 3});
  CHECK(ssm::sum(none) == 0);
  CHECK(ssm::norm(none) == 0);
  CHECK(ssm::max(ssm::sum(none, 0)) == 0);
  CHECK(ssm::sum(none, 0).size() == 3);
  CHECK(ssm::sum(none, 1).size() == 0);
  CHECK_THROWS_WITH_AS(ssm::mean(none), "mean: no elements in [0, 3]", ssm::ArgumentError);
  CHECK_THROWS_AS(ssm::min(none), ssm::ArgumentError);
  CHECK_THROWS_AS(ssm::max(none, 0), ssm::ArgumentError);
}

TEST_CASE("an axis that does not exist and extents that differ are refused") {
  const DynamicTensor<float, 2> x({2, 3});
  const DynamicTensor<float, 2> y({3, 2});
  CHECK_THROWS_WITH_AS(ssm::sum(x, 2), "sum: axis 2 does not exist in [2, 3]", ssm::ShapeError);
  CHECK_THROWS_AS(ssm::sum(x, -1), ssm::ShapeError);
  CHECK_THROWS_AS(ssm::dot(x, y), ssm::ShapeError);
  CHECK_THROWS_AS(ssm::dot(x, y, 0), ssm::ShapeError);
}
