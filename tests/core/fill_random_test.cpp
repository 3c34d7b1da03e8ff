// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/core/reduction.hpp>

using ssm::DynamicTensor;
using ssm::Index;
using ssm::Random;
using ssm::Seed;

TEST_CASE("element i is number i of the seed's stream") {
  DynamicTensor<double, 2> x({3, 65});
  DynamicTensor<double, 2> y({3, 65});
  ssm::fill_uniform(x, Seed{3}, -2, 5);
  ssm::fill_normal(y, Seed{3}, 1, 0.5);
  const Random random(Seed{3});
  for (Index i = 0; i < x.size(); ++i) {
    const auto number = static_cast<std::uint64_t>(i);
    CHECK(x.data()[i] == random.uniform(number, -2, 5));
    CHECK(y.data()[i] == 1 + 0.5 * random.normal(number));
  }
}

TEST_CASE("every layout and scalar gets the same numbers") {
  DynamicTensor<double, 2> x({3, 65});
  DynamicTensor<double, 2> transposed({65, 3});
  DynamicTensor<float, 2> narrow({3, 65});
  ssm::fill_normal(x, Seed{4});
  ssm::fill_normal(transposed.transpose(0, 1), Seed{4});
  ssm::fill_normal(narrow, Seed{4});
  CHECK(ssm::all_close(transposed.transpose(0, 1), x, 0));
  for (Index i = 0; i < x.size(); ++i) CHECK(narrow.data()[i] == static_cast<float>(x.data()[i]));
}

TEST_CASE("uniform and normal numbers have the mean and deviation asked for") {
  DynamicTensor<float, 1> x(100'000);
  const double tolerance = 4 / std::sqrt(static_cast<double>(x.size()));  // deviations
  ssm::fill_uniform(x, Seed{5});
  CHECK(ssm::min(x) >= 0);
  CHECK(ssm::max(x) <= 1);
  CHECK(std::abs(ssm::mean(x) - 0.5) < tolerance * std::sqrt(1.0 / 12));
  ssm::fill_normal(x, Seed{6}, 10, 3);
  CHECK(std::abs(ssm::mean(x) - 10) < 3 * tolerance);
  ssm::map([](float value) { return value - 10; }, x, x);
  const double deviation = ssm::norm(x) / std::sqrt(static_cast<double>(x.size()));
  CHECK(std::abs(deviation - 3) < 3 * tolerance / std::sqrt(2.0));
}

TEST_CASE("filling part of a tensor leaves the rest alone") {
  DynamicTensor<float, 2> x({3, 4});
  ssm::fill_uniform(x.slice(0, 1, 2), Seed{7}, 1, 2);
  for (Index j = 0; j < 4; ++j) {
    CHECK(x(0, j) == 0);
    CHECK(x(1, j) >= 1);
    CHECK(x(2, j) == 0);
  }
}
