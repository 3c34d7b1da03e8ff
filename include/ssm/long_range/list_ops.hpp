// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/long_range/labeled_sequences.hpp"
#include "ssm/train/synthetic_tasks.hpp"  // Draws

namespace ssm {

/// Nested operations on lists of digits: [MAX 2 9 [MIN 4 7 ] 0 ] is 9. A symbol is a digit, an
/// operator or the bracket that ends its list.
namespace list_ops {

inline constexpr std::uint8_t minimum = 10, maximum = 11, median = 12, sum_modulo_10 = 13, end = 14;
inline constexpr Index symbols = 15;
inline constexpr Index classes = 10;
inline constexpr std::string_view names[] = {"0", "1", "2",    "3",    "4",    "5",   "6", "7",
                                             "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]"};

/// What an operator makes of its list, which is not empty. The median of an even number of digits
/// is the mean of the two in the middle, rounded down.
inline int apply(std::uint8_t operation, std::vector<int> list) {
  switch (operation) {
    case minimum:
      return *std::min_element(list.begin(), list.end());
    case maximum:
      return *std::max_element(list.begin(), list.end());
    case median:
      std::sort(list.begin(), list.end());
      return (list[(list.size() - 1) / 2] + list[list.size() / 2]) / 2;
    default:
      return std::accumulate(list.begin(), list.end(), 0) % 10;
  }
}

/// The value of an expression, read from its symbols.
/// Throws  ArgumentError  for what is no expression
inline int value(std::span<const std::uint8_t> expression) {
  struct Open {
    std::uint8_t operation;
    std::vector<int> list;
  };
  std::vector<Open> open{{0, {}}};  // the last one collects what stands outside all lists
  const auto refuse = [](const char* why) { throw ArgumentError(std::string("ListOps: ") + why); };
  for (const std::uint8_t symbol : expression) {
    if (symbol > end) refuse("a symbol that is none of its own");
    if (open.size() == 1 && !open.front().list.empty()) refuse("something follows the expression");
    if (symbol < minimum) {
      open.back().list.push_back(symbol);
    } else if (symbol < end) {
      open.push_back({symbol, {}});
    } else {
      if (open.size() == 1) refuse("a bracket is closed that was not opened");
      if (open.back().list.empty()) refuse("a list is empty");
      const int result = apply(open.back().operation, open.back().list);
      open.pop_back();
      open.back().list.push_back(result);
    }
  }
  if (open.size() > 1) refuse("a bracket is not closed");
  if (open.front().list.empty()) refuse("no expression");
  return open.front().list.front();
}

/// "[MAX 2 9 ]"
inline std::string text(std::span<const std::uint8_t> expression) {
  std::string result;
  for (const std::uint8_t symbol : expression)
    result += (result.empty() ? "" : " ") + std::string(names[symbol]);
  return result;
}

}  // namespace list_ops

/// Random expressions with their values, equal in distribution to those of the published generator:
/// a node above the greatest depth is a list with probability 1/4, else a digit; a list has one of
/// four operators and 2 to `max_arguments` members, each a node one deeper. Expressions whose
/// number of symbols is not between the two lengths, neither of them included, are drawn again.
/// Source  Nangia & Bowman 2018; Tay et al. 2021, google-research/long-range-arena, listops.py
struct ListOps {
  Index max_depth = 10;
  Index max_arguments = 10;
  Index min_length = 500;
  Index max_length = 2000;

  struct Expression {
    std::vector<std::uint8_t> symbols;
    int value = 0;
  };

  /// Throws  ArgumentError  for lengths or sizes that no expression has
  Expression draw(Draws& draws) const {
    if (max_depth < 2 || max_arguments < 2 || min_length < 0 || max_length < min_length + 2 ||
        max_length < 6)
      throw ArgumentError("ListOps: no expression has such a depth, arguments and lengths");
    for (int attempt = 0; attempt < 1'000'000; ++attempt) {
      Expression result;
      result.value = draw_node(draws, 1, result.symbols);
      const auto length = static_cast<Index>(result.symbols.size());
      if (result.value >= 0 && length > min_length && length < max_length) return result;
    }
    throw ArgumentError("ListOps: expressions of such lengths are too rare");
  }

  /// So many different expressions; the same seed gives the same ones.
  LabeledSequences sequences(Seed seed, Index count, std::set<std::uint64_t>& seen) const {
    LabeledSequences result{.symbols = list_ops::symbols, .classes = list_ops::classes};
    Draws draws(seed);
    for (Index repeated = 0; result.count() < count;) {
      const Expression expression = draw(draws);
      const std::string_view bytes(reinterpret_cast<const char*>(expression.symbols.data()),
                                   expression.symbols.size());
      if (seen.insert(Seed{}.fork(bytes).value).second)
        result.add(expression.symbols, static_cast<Token>(expression.value));
      else if (++repeated > 100 * count + 1000)
        throw ArgumentError("ListOps: there are too few different expressions of such lengths");
    }
    return result;
  }
  /// No expression is in both parts.
  ClassificationData data(Seed seed, Index training, Index test) const {
    std::set<std::uint64_t> seen;
    ClassificationData result;
    result.test = sequences(seed.fork("test"), test, seen);
    result.training = sequences(seed.fork("training"), training, seen);
    return result;
  }

 private:
  /// Adds a node's symbols and returns its value; a negative one once the expression is too long.
  int draw_node(Draws& draws, Index depth, std::vector<std::uint8_t>& symbols) const {
    if (static_cast<Index>(symbols.size()) >= max_length) return -1;
    if (depth >= max_depth || draws.uniform() > 0.25) {
      symbols.push_back(static_cast<std::uint8_t>(draws.below(10)));
      return symbols.back();
    }
    const std::size_t place = symbols.size();
    symbols.push_back(static_cast<std::uint8_t>(list_ops::minimum + draws.below(4)));
    std::vector<int> list(static_cast<std::size_t>(2 + draws.below(max_arguments - 1)));
    for (int& member : list) {
      member = draw_node(draws, depth + 1, symbols);
      if (member < 0) return -1;
    }
    symbols.push_back(list_ops::end);
    return list_ops::apply(symbols[place], std::move(list));
  }
};

}  // namespace ssm
