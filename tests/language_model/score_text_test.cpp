// SPDX-License-Identifier: Apache-2.0
#include "ssm/language_model/score_text.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/io/word_count.hpp"

namespace ssm::test {
namespace {

const std::vector<std::string> families{"h3",           "mamba",       "mamba2", "retnet",
                                        "dense-retnet", "dense-mamba", "gpt2"};

/// A fresh model over bytes, as small as they come.
AnyLanguageModel fresh(const std::string& family, const std::string& backend = "cpu") {
  std::map<std::string, std::string> options{{"layers", "2"}, {"width", "16"}};
  if (family == "gpt2") options["positions"] = "64";
  return fresh_language_model({.family = family, .options = options, .seed = Seed{3}},
                              {.backend = backend, .threads = 2});
}
std::vector<Token> some_text(std::size_t size) {
  std::vector<Token> text;
  for (std::size_t i = 0; i < size; ++i) text.push_back(static_cast<Token>(i * i % 97 + i % 5));
  return text;
}
/// ln p of the token at `position`, from `context` tokens before it read at once.
double expected_log_probability(const AnyLanguageModel& model, const std::vector<Token>& text,
                                Index position, Index context) {
  const auto at = static_cast<std::size_t>(position);
  const auto logits =
      model.logits(std::span(text).first(at).last(static_cast<std::size_t>(context)));
  const float* row = &logits(context - 1, 0);
  double sum = 0;
  for (Index v = 0; v < logits.extent(1); ++v) sum += std::exp(double{row[v]});
  return row[text[at]] - std::log(sum);
}
bool are_near(double a, double b) { return std::abs(a - b) <= 2e-5 * std::max(1.0, std::abs(b)); }

struct Kept {
  Index position;
  Token token;
  double log_probability;
  Index rank;
  std::vector<TokenProbability> likeliest;
};
struct Scores {
  TextLoss loss;
  std::vector<Kept> tokens;
};
Scores scores_of(const AnyLanguageModel& model, const std::vector<Token>& text,
                 const ScoringProtocol& protocol, ScoringOptions options = {}) {
  Scores scores;
  options.on_token = [&](const ScoredToken& scored) {
    scores.tokens.push_back({scored.position,
                             scored.token,
                             scored.log_probability,
                             scored.rank,
                             {scored.likeliest.begin(), scored.likeliest.end()}});
  };
  scores.loss = score_text(model, text, protocol, options);
  return scores;
}

/// What each token is scored after, by the windows.
std::vector<Index> contexts_of(const ScoringProtocol& protocol, Index tokens) {
  std::vector<Index> contexts(static_cast<std::size_t>(std::max<Index>(0, tokens)), 0);
  for (Index k = 0; k < protocol.window_count(tokens); ++k) {
    const ScoringWindow window = protocol.window(tokens, k);
    REQUIRE(window.begin >= 0);
    REQUIRE(window.skip >= 0);
    REQUIRE(window.skip < window.length);
    REQUIRE(window.begin + window.length < tokens);
    for (Index i = window.skip; i < window.length; ++i) {
      Index& context = contexts[static_cast<std::size_t>(window.begin + i + 1)];
      REQUIRE(context == 0);  // scored once
      context = i + 1;
    }
  }
  return contexts;
}

TEST_CASE("every token but the first is scored once, after as much as the protocol says") {
  for (const Index tokens : {0, 1, 2, 3, 8, 9, 10, 63, 64, 65, 66, 200}) {
    for (const Index window : {1, 2, 8, 64}) {
      CAPTURE(tokens);
      CAPTURE(window);
      const auto disjoint = contexts_of(ScoringProtocol::windows(window), tokens);
      for (Index p = 1; p < tokens; ++p)
        CHECK(disjoint[static_cast<std::size_t>(p)] == (p - 1) % window + 1);
      const auto rolling = contexts_of(ScoringProtocol::rolling(window), tokens);
      for (Index p = 1; p < tokens; ++p) {
        const bool is_in_last = (p - 1) / window == (tokens - 2) / window;
        const Index filled =
            is_in_last && tokens > window ? window - (tokens - 1 - p) : (p - 1) % window + 1;
        CHECK(rolling[static_cast<std::size_t>(p)] == filled);
      }
      for (Index stride = 1; stride < window; stride += 3) {
        const auto strided = contexts_of(ScoringProtocol::strided(window, stride), tokens);
        for (Index p = 1; p < tokens; ++p) {
          const Index context = strided[static_cast<std::size_t>(p)];
          CHECK(context >= std::min(p, window - stride));
          CHECK(context < window);
        }
      }
    }
    for (const Index streams : {1, 3, 100}) {
      const auto carried = contexts_of(ScoringProtocol::carried(streams), tokens);
      for (Index p = 1; p < tokens; ++p) {
        CHECK(carried[static_cast<std::size_t>(p)] >= 1);
        if (streams == 1) CHECK(carried[static_cast<std::size_t>(p)] == p);
      }
    }
  }
}

TEST_CASE("strided windows are those of the loop of Hugging Face's guide") {
  for (const Index tokens : {5, 16, 17, 40, 41, 100})
    for (const Index window : {4, 16}) {
      const Index stride = window / 2;
      const ScoringProtocol protocol = ScoringProtocol::strided(window, stride);
      Index k = 0;
      Index before = 0;
      for (Index begin = 0; begin < tokens; begin += stride, ++k) {
        const Index end = std::min(begin + window, tokens);
        const Index targets = end - before;  // the label of the first token does not count
        const ScoringWindow is = protocol.window(tokens, k);
        CHECK(is.begin == begin);
        CHECK(is.length == end - begin - 1);
        CHECK(is.length - is.skip == (k == 0 ? targets - 1 : targets));
        before = end;
        if (end == tokens) break;
      }
      CHECK(protocol.window_count(tokens) == k + 1);
    }
}

TEST_CASE("a stride as long as the window leaves no overlap") {
  CHECK(ScoringProtocol::strided(64, 64) == ScoringProtocol::windows(64));
  CHECK_THROWS_AS(ScoringProtocol::strided(64, 65), ArgumentError);
  CHECK_THROWS_AS(ScoringProtocol::strided(64, 0), ArgumentError);
}

TEST_CASE("tokens are scored from the context of their window, in models of every family") {
  const auto text = some_text(70);
  const std::vector<ScoringProtocol> protocols{
      ScoringProtocol::windows(16), ScoringProtocol::strided(16, 5), ScoringProtocol::rolling(16)};
  for (const std::string& family : families) {
    CAPTURE(family);
    const AnyLanguageModel model = fresh(family);
    for (const ScoringProtocol& protocol : protocols) {
      const auto contexts = contexts_of(protocol, 70);
      const Scores scores = scores_of(model, text, protocol, {.likeliest = 2});
      REQUIRE(scores.tokens.size() == 69);
      CHECK(scores.loss.tokens == 69);
      double sum = 0;
      for (std::size_t i = 0; i < 69; ++i) {
        const Kept& scored = scores.tokens[i];
        CHECK(scored.position == static_cast<Index>(i) + 1);
        CHECK(scored.token == text[i + 1]);
        CHECK(are_near(scored.log_probability,
                       expected_log_probability(model, text, scored.position, contexts[i + 1])));
        REQUIRE(scored.likeliest.size() == 2);
        CHECK(scored.likeliest[0].log_probability >= scored.likeliest[1].log_probability);
        CHECK((scored.rank == 1) ==
              (scored.likeliest[0].log_probability == scored.log_probability));
        CHECK((scored.rank > 2) == (scored.log_probability < scored.likeliest[1].log_probability));
        sum += scored.log_probability;
      }
      CHECK(sum == doctest::Approx(-scores.loss.nats).epsilon(1e-12));
      // However they are read.
      for (const ScoringOptions& options :
           {ScoringOptions{.batch = 1, .positions = 3}, ScoringOptions{.batch = 3},
            ScoringOptions{.batch = 2, .positions = 10}}) {
        const Scores other = scores_of(model, text, protocol, options);
        CHECK(are_near(other.loss.nats, scores.loss.nats));
        REQUIRE(other.tokens.size() == 69);
        for (std::size_t i = 0; i < 69; ++i) {
          CHECK(other.tokens[i].position == scores.tokens[i].position);
          CHECK(are_near(other.tokens[i].log_probability, scores.tokens[i].log_probability));
        }
      }
    }
  }
}

TEST_CASE("a carried state is one window over the whole text, and what evaluate says") {
  const auto text = some_text(60);
  for (const std::string& family : families)
    for (const char* backend : {"cpu", "reference"}) {
      CAPTURE(family);
      const AnyLanguageModel model = fresh(family, backend);
      const TextLoss carried =
          score_text(model, text, ScoringProtocol::carried(), {.positions = 7});
      CHECK(carried.tokens == 59);
      CHECK(are_near(carried.nats, score_text(model, text, ScoringProtocol::windows(59)).nats));
      CHECK(are_near(carried.nats, model.evaluate(text).nats));
      CHECK(are_near(score_text(model, text, default_protocol(model.facts())).nats,
                     model.evaluate(text).nats));
      const TextLoss streams = score_text(model, text, ScoringProtocol::carried(3));
      CHECK(streams.tokens == 59);
      CHECK(are_near(streams.nats, model.loss(text, {.streams = 3}).nats));
      CHECK(are_near(score_text(model, text, ScoringProtocol::windows(8)).nats,
                     model.loss(text, {.context = 8}).nats));
    }
}

TEST_CASE("progress is told after each part, up to the result") {
  const AnyLanguageModel model = fresh("mamba");
  std::vector<TextLoss> told;
  const TextLoss loss =
      score_text(model, some_text(50), ScoringProtocol::windows(10),
                 {.batch = 1, .on_progress = [&](const TextLoss& part) { told.push_back(part); }});
  REQUIRE(told.size() == 5);
  CHECK(told.front().tokens == 10);
  CHECK(told.back().tokens == 49);
  CHECK(told.back().nats == loss.nats);
}

TEST_CASE("threads that sum over a large vocabulary give the same bits as one") {
  const AnyLanguageModel model = fresh_language_model(
      {.family = "mamba", .options = {{"layers", "1"}, {"width", "16"}}, .vocabulary = 5000});
  const auto text = some_text(300);
  const ScoringProtocol protocol = ScoringProtocol::strided(40, 30);
  const Scores one = scores_of(model, text, protocol, {.threads = 1});
  const Scores four = scores_of(model, text, protocol, {.threads = 4});
  CHECK(one.loss.nats == four.loss.nats);
  REQUIRE(one.tokens.size() == four.tokens.size());
  for (std::size_t i = 0; i < one.tokens.size(); ++i) {
    CHECK(one.tokens[i].log_probability == four.tokens[i].log_probability);
    CHECK(one.tokens[i].rank == four.tokens[i].rank);
  }
}

TEST_CASE("what cannot be scored is refused with a sentence") {
  const AnyLanguageModel model = fresh("gpt2");  // 64 positions
  const auto text = some_text(100);
  CHECK(score_text(model, text, ScoringProtocol::windows(64)).tokens == 99);
  CHECK_THROWS_WITH_AS(
      score_text(model, text, ScoringProtocol::windows(65)),
      "the model has learned 64 positions and cannot read 65 tokens from one state", ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, ScoringProtocol::carried()), ArgumentError);
  CHECK(score_text(model, text, ScoringProtocol::carried(2)).tokens == 99);
  CHECK(score_text(model, {}, ScoringProtocol::carried()).tokens == 0);
  CHECK(score_text(model, std::vector<Token>{5}, ScoringProtocol::windows(8)).tokens == 0);
  CHECK_THROWS_AS(score_text(model, std::vector<Token>{5, 256}, ScoringProtocol::windows(8)),
                  ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, {.context = 4, .stride = 5}), ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, {.context = -1}), ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, {.context = 4, .streams = 2}), ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, {.context = 4}, {.batch = -1}), ArgumentError);
  CHECK_THROWS_AS(score_text(model, text, {.context = 4}, {.threads = -1}), ArgumentError);
}

TEST_CASE("perplexities are exponentials of the same sum") {
  const TextLoss loss{.nats = 100, .tokens = 50};
  CHECK(perplexity(loss) == doctest::Approx(std::exp(2.0)));
  CHECK(perplexity(loss, 25) == doctest::Approx(std::exp(4.0)));
}

TEST_CASE("words are what whitespace of Unicode divides, however the text is cut") {
  const auto counts = [](const std::string& text, std::size_t part) {
    WordCount count;
    for (std::size_t at = 0; at < text.size(); at += part) count.add(text.substr(at, part));
    return std::pair(count.words(), count.pieces());
  };
  for (const std::size_t part : {1U, 2U, 3U, 100U}) {
    CAPTURE(part);
    CHECK(counts("", part) == std::pair<Index, Index>(0, 1));
    CHECK(counts(" \n ", part) == std::pair<Index, Index>(0, 2));
    CHECK(counts("to be", part) == std::pair<Index, Index>(2, 2));
    CHECK(counts(" to\n\nbe \t", part) == std::pair<Index, Index>(2, 4));
    CHECK(counts("a\u00a0b\u2003c\u3000d\u200be", part) == std::pair<Index, Index>(4, 4));
    CHECK(counts("na\u00efve \xff \xe2\x80", part) == std::pair<Index, Index>(3, 3));
    CHECK(counts("x\xe2\x80", part) == std::pair<Index, Index>(1, 1));
  }
}

}  // namespace
}  // namespace ssm::test
