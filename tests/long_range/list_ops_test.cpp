// SPDX-License-Identifier: Apache-2.0
#include "ssm/long_range/list_ops.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace ssm {
namespace {

using list_ops::end;
using list_ops::maximum;
using list_ops::median;
using list_ops::minimum;
using list_ops::sum_modulo_10;
using Symbols = std::vector<std::uint8_t>;

TEST_CASE("the value of an expression is that of its operators") {
  CHECK(list_ops::value(Symbols{7}) == 7);
  CHECK(list_ops::value(Symbols{maximum, 2, 9, minimum, 4, 7, end, 0, end}) == 9);
  CHECK(list_ops::value(Symbols{median, 1, 8, 4, end}) == 4);
  CHECK(list_ops::value(Symbols{median, 9, 1, 4, 6, end}) == 5);  // of 4 and 6
  CHECK(list_ops::value(Symbols{median, 2, 5, end}) == 3);        // 3.5, rounded down
  CHECK(list_ops::value(Symbols{sum_modulo_10, 9, sum_modulo_10, 8, 7, end, 3, end}) == 7);
  CHECK(list_ops::text(Symbols{maximum, 2, minimum, 4, 7, end, end}) == "[MAX 2 [MIN 4 7 ] ]");
}

TEST_CASE("what is no expression is refused") {
  CHECK_THROWS_WITH_AS(list_ops::value({}), "ListOps: no expression", ArgumentError);
  for (const Symbols& wrong : {Symbols{maximum, 2},
                               {end},
                               {1, 2},
                               {maximum, end},
                               {1, end},
                               {15},
                               {maximum, 2, end, end},
                               {maximum, 2, end, 3}})
    CHECK_THROWS_AS(list_ops::value(wrong), ArgumentError);
}

/// The depth of the deepest operator and the most members of a list.
std::array<Index, 2> shape_of(std::span<const std::uint8_t> expression) {
  std::array<Index, 2> largest{};
  std::vector<Index> members{0};
  for (const std::uint8_t symbol : expression) {
    if (symbol != end) ++members.back();
    if (symbol >= minimum && symbol < end) members.push_back(0);
    largest[0] = std::max(largest[0], static_cast<Index>(members.size()) - 1);
    largest[1] = std::max(largest[1], members.back());
    if (symbol == end) members.pop_back();
  }
  return largest;
}

TEST_CASE("drawn expressions have the published lengths, depth and arguments, and their value") {
  const ListOps task;
  const ClassificationData data = task.data(Seed{1}, 60, 20);
  CHECK(data.training.count() == 60);
  CHECK(data.test.count() == 20);
  Index deepest = 0, longest_list = 0;
  for (Index i = 0; i < 60; ++i) {
    const auto expression = data.training[i];
    CHECK(expression.size() > 500);
    CHECK(expression.size() < 2000);
    CHECK(list_ops::value(expression) == data.training.labels[static_cast<std::size_t>(i)]);
    const auto [depth, arguments] = shape_of(expression);
    deepest = std::max(deepest, depth);
    longest_list = std::max(longest_list, arguments);
  }
  CHECK(deepest == 9);  // digits alone are at depth 10
  CHECK(longest_list == 10);
}

TEST_CASE("short ones are those of the published distribution") {
  // Of depth 2 and two arguments, 2 to 5 symbols: [OP a b ], all 400 alike.
  const ListOps task{.max_depth = 2, .max_arguments = 2, .min_length = 1, .max_length = 6};
  Draws draws(Seed{3});
  std::array<double, 4> operators{};
  std::array<double, 10> digits{};
  const int count = 4000;
  for (int i = 0; i < count; ++i) {
    const auto expression = task.draw(draws);
    REQUIRE(expression.symbols.size() == 4);
    operators[static_cast<std::size_t>(expression.symbols[0] - minimum)] += 1;
    digits[expression.symbols[1]] += 1;
  }
  for (const double n : operators) CHECK(std::abs(n - count / 4.0) < 4 * std::sqrt(count * 0.1875));
  for (const double n : digits) CHECK(std::abs(n - count / 10.0) < 4 * std::sqrt(count * 0.09));
}

TEST_CASE("a list is as frequent as in the published generator") {
  // A root is a list with probability 1/4: digits are the rest.
  const ListOps task{.max_depth = 2, .max_arguments = 2, .min_length = 0, .max_length = 6};
  Draws draws(Seed{4});
  int lists = 0;
  const int count = 4000;
  for (int i = 0; i < count; ++i) lists += task.draw(draws).symbols.size() > 1 ? 1 : 0;
  CHECK(std::abs(lists - count / 4.0) < 4 * std::sqrt(count * 0.1875));
}

TEST_CASE("no expression comes twice, and the same seed gives the same ones") {
  const ListOps task{.max_depth = 3, .max_arguments = 3, .min_length = 3, .max_length = 20};
  const ClassificationData data = task.data(Seed{1}, 300, 100);
  std::set<std::string> seen;
  for (const LabeledSequences* part : {&data.training, &data.test})
    for (Index i = 0; i < part->count(); ++i) seen.insert(list_ops::text((*part)[i]));
  CHECK(seen.size() == 400);
  CHECK(task.data(Seed{1}, 300, 100).training.values == data.training.values);
  CHECK(task.data(Seed{2}, 300, 100).training.values != data.training.values);
  const ListOps few{.max_depth = 2, .max_arguments = 2, .min_length = 1, .max_length = 6};
  CHECK_THROWS_WITH_AS(few.data(Seed{1}, 500, 0),
                       "ListOps: there are too few different expressions of such lengths",
                       ArgumentError);
  CHECK_THROWS_AS((ListOps{.max_depth = 1}.data(Seed{1}, 1, 1)), ArgumentError);
}

TEST_CASE("a batch holds symbols from 1 on, numbers from -1 to 1, and one target a sequence") {
  LabeledSequences data{.symbols = 5, .classes = 3};
  data.add(Symbols{0, 4, 2}, 2);
  data.add(Symbols{3}, 1);
  SequenceBatch batch;
  const std::vector<Index> both{1, 0};
  batch.fill(data, both, 4);
  CHECK(batch.tokens.extent(1) == 4);
  const Token tokens[2][4] = {{4, 0, 0, 0}, {1, 5, 3, 0}};
  const Token targets[2][4] = {{1, -100, -100, -100}, {-100, -100, 2, -100}};
  for (Index b = 0; b < 2; ++b)
    for (Index t = 0; t < 4; ++t) {
      CHECK(batch.tokens(b, t) == tokens[b][t]);
      CHECK(batch.targets(b, t) == targets[b][t]);
    }
  CHECK(batch.numbers(1, 0, 0) == -1);
  CHECK(batch.numbers(1, 1, 0) == 1);
  CHECK(batch.numbers(1, 2, 0) == 0);
  CHECK(batch.numbers(0, 3, 0) == 0);
  CHECK_THROWS_AS(data.add(Symbols{5}, 0), ArgumentError);
  CHECK_THROWS_AS(data.add(Symbols{1}, 3), ArgumentError);
  CHECK_THROWS_AS(data.add({}, 0), ArgumentError);
}

}  // namespace
}  // namespace ssm
