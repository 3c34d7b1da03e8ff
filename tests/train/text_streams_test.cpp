// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/text_streams.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "ssm/core/tensor.hpp"

namespace ssm::test {
namespace {

std::vector<Token> counting(std::size_t size) {
  std::vector<Token> text(size);
  std::iota(text.begin(), text.end(), Token{0});
  return text;
}

TEST_CASE("a window is a piece of the text and its last target") {
  const auto text = counting(100);
  for (const Index length : {1, 2, 63, 64, 65}) {
    const TextStreams streams(text, length, 3, Seed{3});
    for (Index step = 0; step < 200; ++step)
      for (Index stream = 0; stream < 3; ++stream) {
        const auto window = streams.window(stream, step);
        REQUIRE(static_cast<Index>(window.size()) == length + 1);
        for (std::size_t t = 1; t < window.size(); ++t) CHECK(window[t] == window[t - 1] + 1);
      }
  }
}

TEST_CASE("the next window of a stream begins with the last target, but where the text ends") {
  const auto text = counting(1000);
  const TextStreams streams(text, 8, 4, Seed{3});
  for (Index stream = 0; stream < 4; ++stream) {
    int breaks = 0;
    for (Index step = 0; step < 124; ++step)  // once through the text
      breaks += streams.window(stream, step).back() != streams.window(stream, step + 1).front();
    CHECK(breaks == 1);
  }
}

TEST_CASE("streams are spread over the text") {
  const auto text = counting(1008);
  const TextStreams streams(text, 8, 4, Seed{3});
  std::set<Token> begins;
  for (Index stream = 0; stream < 4; ++stream)
    begins.insert(streams.window(stream, 0).front() % 250);
  CHECK(begins.size() == 1);
}

TEST_CASE("every token of the text is a target") {
  const auto text = counting(97);
  const TextStreams streams(text, 8, 2, Seed{1});
  std::set<Token> targets;
  for (Index step = 0; step < 100; ++step) {
    const auto window = streams.window(1, step);
    targets.insert(window.begin() + 1, window.end());
  }
  CHECK(targets.size() == 96);
}

TEST_CASE(
    "a late window is the same whatever was asked for before, and another seed's is another") {
  const auto text = counting(100000);
  const TextStreams streams(text, 8, 2, Seed{3});
  const Index late = Index{1} << 40;
  CHECK(streams.window(1, late).back() == streams.window(1, late + 1).front());
  CHECK(TextStreams(text, 8, 2, Seed{4}).window(0, 0).front() != streams.window(0, 0).front());
}

/// Token i of a text that no memory holds is i modulo a prime.
class EndlessText : public TokenSource {
 public:
  explicit EndlessText(Index size) : size_(size) {}
  Index size() const override { return size_; }
  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size_);
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<Token>((begin + static_cast<Index>(i)) % prime);
  }
  static constexpr Index prime = 1'000'003;

 private:
  Index size_;
};

TEST_CASE("streams walk through texts and windows of any size") {
  const EndlessText text(std::numeric_limits<Index>::max() / 2);
  const TextStreams streams(text, 4000, 3, Seed{1});
  const auto next = [](Token token) { return (token + 1) % EndlessText::prime; };
  for (const Index step : {Index{0}, Index{1} << 40, Index{1} << 60})
    for (Index stream = 0; stream < 3; ++stream) {
      const auto window = streams.window(stream, step);
      CHECK(window.back() == streams.window(stream, step + 1).front());
      CHECK(window[1] == next(window[0]));
      CHECK(window[4000] == next(window[3999]));
    }
}

TEST_CASE("a batch holds the windows of its streams and, one later, their targets") {
  const auto text = counting(100);
  const TextStreams streams(text, 7, 6, Seed{1});
  DynamicTensor<Token, 2> tokens({3, 7}), targets({3, 7});
  streams.fill(2, 5, tokens, targets);
  for (Index b = 0; b < 3; ++b)
    for (Index t = 0; t < 7; ++t) {
      CHECK(tokens(b, t) == streams.window(2 + b, 5)[static_cast<std::size_t>(t)]);
      CHECK(targets(b, t) == tokens(b, t) + 1);
    }
}

TEST_CASE("a text of exactly one window has that one only") {
  const auto text = counting(5);
  const TextStreams streams(text, 4, 3, Seed{1});
  for (Index step = 0; step < 9; ++step) CHECK(streams.window(step % 3, step).front() == 0);
}

TEST_CASE("a text without a whole window and its target is refused") {
  const auto text = counting(5);
  CHECK_THROWS_AS(TextStreams(text, 5, 1, Seed{1}), ArgumentError);
  CHECK_THROWS_AS(TextStreams({}, 1, 1, Seed{1}), ArgumentError);
  CHECK_THROWS_AS(TextStreams(text, 0, 1, Seed{1}), ArgumentError);
  CHECK_THROWS_AS(TextStreams(text, 1, 0, Seed{1}), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
