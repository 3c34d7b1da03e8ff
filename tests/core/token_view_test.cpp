// SPDX-License-Identifier: Apache-2.0
#include "ssm/core/token_view.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <span>
#include <vector>

namespace ssm::test {
namespace {

/// Token i is 10·i.
class Tens : public TokenSource {
 public:
  Index size() const override { return 6; }
  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<Token>(10 * (begin + static_cast<Index>(i)));
  }
};

std::vector<Token> read(TokenView view, Index begin, std::size_t count) {
  std::vector<Token> tokens(count);
  view.read(begin, tokens);
  return tokens;
}

TEST_CASE("tokens are the same from memory and from a source, whole and in parts") {
  const std::vector<Token> memory{0, 10, 20, 30, 40, 50};
  const Tens source;
  for (const TokenView view :
       {TokenView(memory), TokenView(std::span(memory)), TokenView(source)}) {
    CHECK(view.size() == 6);
    CHECK(read(view, 0, 6) == memory);
    CHECK(read(view, 6, 0).empty());
    const TokenView middle = view.subview(1, 4);
    CHECK(read(middle, 1, 3) == std::vector<Token>{20, 30, 40});
    CHECK(read(middle.subview(2, 2), 0, 2) == std::vector<Token>{30, 40});
  }
}

TEST_CASE("nothing outside a view is read") {
  const std::vector<Token> memory{0, 10, 20, 30, 40, 50};
  const Tens source;
  constexpr Index limit = std::numeric_limits<Index>::max();
  for (const TokenView view : {TokenView(memory), TokenView(source)}) {
    const TokenView middle = view.subview(1, 4);
    for (const Index begin : {Index{-1}, Index{4}, Index{5}, limit})
      CHECK_THROWS_AS(read(middle, begin, 1), ArgumentError);
    for (const Index begin : {Index{-1}, Index{5}, limit})
      CHECK_THROWS_AS(middle.subview(begin, 1), ArgumentError);
    CHECK_THROWS_AS(middle.subview(0, -1), ArgumentError);
    CHECK_THROWS_AS(middle.subview(1, limit), ArgumentError);
  }
  CHECK(TokenView().empty());
  CHECK_THROWS_AS(read({}, 0, 1), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
