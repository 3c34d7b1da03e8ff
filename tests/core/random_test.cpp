// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <ssm/core/random.hpp>

using ssm::Random;
using ssm::Seed;
using Words = std::array<std::uint32_t, 4>;

static_assert(Random(Seed{0}).bits(0)[0] == 0x6627e8d5U);  // constant expressions

namespace {
constexpr std::uint64_t draws = 200'000;
/// Four standard deviations of a mean of `draws` numbers.
double four_sigma(double deviation) {
  return 4 * deviation / std::sqrt(static_cast<double>(draws));
}
}  // namespace

TEST_CASE("the bits are those of Philox4x32-10") {
  // The first is published with Random123; the others are its algorithm with the upper counter
  // words zero.
  CHECK(Random(Seed{0}).bits(0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Random(Seed{0xffffffffffffffff}).bits(0xffffffffffffffff) ==
        Words{0x4d18d7d2, 0x430ac65a, 0xbd2fa22a, 0x0afae10d});
  CHECK(Random(Seed{0x299f31d0a4093822}).bits(0x85a308d3243f6a88) ==
        Words{0xe69c9c31, 0xb5a3d762, 0xe733bfc1, 0x341a787c});
  CHECK(Random(Seed{42}).bits(1) == Words{0xfcdb2127, 0x53ba6cfd, 0x838f5a6e, 0x744e06fb});
}

TEST_CASE("a number does not depend on what was drawn before") {
  const Random random(Seed{7});
  const double late = random.uniform(1000);
  for (std::uint64_t i = 0; i < 1000; ++i) random.normal(i);
  CHECK(random.uniform(1000) == late);
  CHECK(Random(Seed{7}).uniform(1000) == late);
  CHECK(Random(Seed{8}).uniform(1000) != late);
}

TEST_CASE("uniform numbers lie in [0, 1) with the mean and variance of the distribution") {
  const Random random(Seed{1});
  double sum = 0;
  double squares = 0;
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double u = random.uniform(i);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u;
    squares += (u - 0.5) * (u - 0.5);
  }
  CHECK(std::abs(sum / draws - 0.5) < four_sigma(std::sqrt(1.0 / 12)));
  CHECK(std::abs(squares / draws - 1.0 / 12) < four_sigma(std::sqrt(1.0 / 180)));
  CHECK(random.uniform(3, -2, 6) == -2 + 8 * random.uniform(3));
}

TEST_CASE("normal numbers have the first four moments of the distribution") {
  const Random random(Seed{2});
  std::array<double, 5> moment{};
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double x = random.normal(i);
    REQUIRE(std::isfinite(x));
    for (int power = 1; power <= 4; ++power)
      moment[static_cast<std::size_t>(power)] += std::pow(x, power) / draws;
  }
  CHECK(std::abs(moment[1]) < four_sigma(1));
  CHECK(std::abs(moment[2] - 1) < four_sigma(std::sqrt(2.0)));
  CHECK(std::abs(moment[3]) < four_sigma(std::sqrt(15.0)));
  CHECK(std::abs(moment[4] - 3) < four_sigma(std::sqrt(96.0)));
}

TEST_CASE("neighboring numbers are not correlated") {
  const Random random(Seed{3});
  double product = 0;
  for (std::uint64_t i = 0; i < draws; ++i)
    product += random.normal(i) * random.normal(i + 1) / draws;
  CHECK(std::abs(product) < four_sigma(1));
}

TEST_CASE("integers below n cover 0 to n-1 evenly") {
  const Random random(Seed{4});
  std::array<int, 7> count{};
  for (std::uint64_t i = 0; i < draws; ++i) ++count.at(random.below(i, count.size()));
  const double expected = static_cast<double>(draws) / count.size();
  double chi_squared = 0;
  for (const int n : count) chi_squared += (n - expected) * (n - expected) / expected;
  CHECK(chi_squared < 22.5);  // 6 degrees of freedom, one in a thousand
  CHECK(random.below(5, 1) == 0);
}

TEST_CASE("integers below a number of more than 32 bits are the high half of the product") {
  const Random random(Seed{0});
  const auto words = random.bits(0);
  const std::uint64_t word = (std::uint64_t{words[1]} << 32) | words[0];
  CHECK(random.below(0, std::uint64_t{1} << 63) == word >> 1);
  CHECK(random.below(0, std::uint64_t{1} << 40) == word >> 24);
  CHECK(random.below(0, std::numeric_limits<std::uint64_t>::max()) == word - 1);
}

TEST_CASE("forks of a seed, by number and by name, are different streams") {
  std::set<std::uint64_t> seeds;
  for (std::uint64_t part = 0; part < 1000; ++part) seeds.insert(Seed{5}.fork(part).value);
  for (const char* name : {"", "a", "b", "ab", "ba", "kernel.D", "kernel.d"})
    seeds.insert(Seed{5}.fork(name).value);
  seeds.insert(5);
  CHECK(seeds.size() == 1008);
  CHECK(Seed{5}.fork("kernel.D").value == Seed{5}.fork("kernel.D").value);
}
