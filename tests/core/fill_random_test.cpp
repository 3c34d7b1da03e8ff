// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ssm/backend/cuda/new_threads.hpp>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/core/initializer.hpp>
#include <ssm/core/reduction.hpp>
#include <vector>

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

TEST_CASE("numbers drawn some at a time are those drawn one by one") {
  const Random random(Seed{8});
  for (const Index count : {0, 1, 15, 16, 17, 100})
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{0xfffffff5}}) {
      std::vector<double> uniform(static_cast<std::size_t>(count)), normal(uniform);
      random.fill_uniform(uniform.data(), first, count, 0, 2);
      random.fill_normal(normal.data(), first, count, 2);
      for (std::size_t j = 0; j < uniform.size(); ++j) {
        CHECK(uniform[j] == random.uniform(first + j, 0, 2));
        CHECK(normal[j] == 2 * random.normal(first + j));
      }
    }
}

TEST_CASE("an initializer's numbers are those of its seed, whoever draws which ranges") {
  constexpr Index count = 100'000;
  const Random uniform(Seed{9}.fork("u")), normal(Seed{9}.fork(3));
  struct Backwards {
    void for_ranges(Index n, const ssm::Initializer::Body& body) const {
      for (Index end = n; end > 0; end -= std::min<Index>(end, 33'333))
        body(std::max<Index>(0, end - 33'333), end);
    }
  };
  const Backwards backwards;
  const ssm::cuda::NewThreads new_threads;
  for (const ssm::Initializer& initializer :
       {ssm::Initializer(Seed{9}), ssm::Initializer(Seed{9}, backwards),
        ssm::Initializer(Seed{9}, new_threads)}) {
    std::vector<float> x(count), y(count);
    initializer.fork("u").fill_uniform(x.data(), count, -3, 3);
    initializer.fork(3).fill_normal(y.data(), count, 0.5);
    bool equal = true;
    for (std::size_t i = 0; i < x.size(); ++i)
      equal = equal && x[i] == static_cast<float>(uniform.uniform(i, -3, 3)) &&
              y[i] == static_cast<float>(0.5 * normal.normal(i));
    CHECK(equal);
  }
}
