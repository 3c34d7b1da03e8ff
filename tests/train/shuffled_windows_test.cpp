// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/shuffled_windows.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "ssm/core/tensor.hpp"

namespace ssm::test {
namespace {

std::vector<Token> counting(std::size_t size) {
  std::vector<Token> text(size);
  std::iota(text.begin(), text.end(), Token{0});
  return text;
}

TEST_CASE("a random order has every number once, for every count") {
  for (const std::uint64_t n :
       {1UL, 2UL, 3UL, 4UL, 5UL, 16UL, 17UL, 63UL, 64UL, 65UL, 1000UL, 4096UL, 4097UL}) {
    const RandomOrder order(n, Seed{n});
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < n; ++i) seen.insert(order(i));
    CHECK(seen.size() == n);
    CHECK(*seen.rbegin() == n - 1);
  }
}

TEST_CASE("a random order of a count beyond any memory stays below it") {
  const std::uint64_t n = std::numeric_limits<std::uint64_t>::max() / 2 + 3;
  const RandomOrder order(n, Seed{1});
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    CHECK(order(i) < n);
    seen.insert(order(i));
  }
  CHECK(seen.size() == 1000);
}

TEST_CASE("in random orders every number is as likely in every place") {
  constexpr int n = 5;
  constexpr int orders = 10000;
  int count[n][n] = {};
  for (int seed = 0; seed < orders; ++seed) {
    const RandomOrder order(n, Seed{7}.fork(static_cast<std::uint64_t>(seed)));
    for (int i = 0; i < n; ++i) ++count[i][order(static_cast<std::uint64_t>(i))];
  }
  constexpr int expected = orders / n;  // deviation of a count: √(orders · 1/n · (1 − 1/n)) = 40
  for (const auto& row : count)
    for (const int times : row) CHECK(std::abs(times - expected) < 5 * 40);
}

TEST_CASE("every epoch has every window once, each in another order, whatever the rows") {
  const auto text = counting(8 * 13 + 5);  // 13 windows, and a rest that is not one
  for (const Index rows : {1, 3, 13, 16}) {
    const ShuffledWindows windows(text, 8, rows, Seed{5});
    REQUIRE(windows.windows() == 13);
    std::vector<std::vector<Index>> epochs(4);
    for (Index read = 0; read < 4 * 13; ++read) {
      const Index begin = windows.begin_of(read % rows, read / rows);
      CHECK(begin % 8 == 0);
      epochs[static_cast<std::size_t>(read / 13)].push_back(begin / 8);
    }
    for (const auto& epoch : epochs)
      CHECK(std::set<Index>(epoch.begin(), epoch.end()).size() == 13);
    CHECK(epochs[0] != epochs[1]);
    CHECK(epochs[1] != epochs[2]);
  }
}

TEST_CASE("the order of windows is that of the seed, from any step on") {
  const auto text = counting(1000);
  const ShuffledWindows windows(text, 8, 4, Seed{5}), again(text, 8, 4, Seed{5});
  const ShuffledWindows other(text, 8, 4, Seed{6});
  std::vector<Index> first, second, third;
  for (Index step = 31; step < 60; ++step)
    for (Index row = 0; row < 4; ++row) {
      first.push_back(windows.begin_of(row, step));
      second.push_back(again.begin_of(row, step));
      third.push_back(other.begin_of(row, step));
    }
  CHECK(first == second);
  CHECK(first != third);
}

TEST_CASE("a batch of shuffled windows holds them and, one later, their targets") {
  const auto text = counting(100);
  const ShuffledWindows windows(text, 7, 6, Seed{1});
  DynamicTensor<Token, 2> tokens({3, 7}), targets({3, 7});
  windows.fill(2, 5, tokens, targets);
  for (Index b = 0; b < 3; ++b)
    for (Index t = 0; t < 7; ++t) {
      CHECK(tokens(b, t) == windows.begin_of(2 + b, 5) + t);
      CHECK(targets(b, t) == tokens(b, t) + 1);
    }
}

TEST_CASE("the last window of a text may end with its last token") {
  const auto text = counting(9);
  const ShuffledWindows windows(text, 4, 1, Seed{1});
  CHECK(windows.windows() == 2);
  for (Index step = 0; step < 8; ++step) CHECK(windows.window(0, step).size() == 5);
}

TEST_CASE("a text without a whole window and its target cannot be shuffled") {
  const auto text = counting(5);
  CHECK_THROWS_AS(ShuffledWindows(text, 5, 1, Seed{1}), ArgumentError);
  CHECK_THROWS_AS(ShuffledWindows(text, 0, 1, Seed{1}), ArgumentError);
  CHECK_THROWS_AS(ShuffledWindows(text, 1, 0, Seed{1}), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
