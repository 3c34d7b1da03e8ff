// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/synthetic_tasks.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace ssm;
using Tokens = std::vector<Token>;

/// The whole sequence: what the model reads, and the last answer.
Tokens whole(const LabeledSequence& s) {
  Tokens all = s.tokens;
  all.push_back(s.targets.back());
  return all;
}
Tokens parse_names(const SyntheticVocabulary& tokens, const std::string& text) {
  std::istringstream words(text);
  Tokens ids;
  for (std::string word; words >> word;) ids.push_back(tokens.id(word));
  return ids;
}
Tokens parse_ids(const std::string& text) {
  std::istringstream words(text);
  Tokens ids;
  for (std::string word; words >> word;)
    ids.push_back(word == "-" ? ignored_target : static_cast<Token>(std::stoi(word)));
  return ids;
}

/// Each of these says which rule of its task a sequence breaks, nothing if none.
std::string broken_rule(const InductionHeads& task, const Tokens& s) {
  const SyntheticVocabulary tokens(task.vocabulary);
  const auto n = static_cast<std::size_t>(task.length);
  if (s.size() != n + 2) return "length";
  std::vector<std::size_t> queries;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] == tokens.query())
      queries.push_back(i);
    else if (s[i] < 1 || s[i] > tokens.ordinary_count())
      return "token";
  }
  if (queries.size() != 2 || queries[1] != n) return "two queries, the second at n";
  if (queries[0] > n - 3) return "first query at n - 3 at most";
  return s.back() == s[queries[0] + 1] ? "" : "answer";
}

std::string broken_rule(const AssociativeRecall& task, const Tokens& s) {
  const SyntheticVocabulary tokens(task.vocabulary);
  const auto n = static_cast<std::size_t>(task.length);
  const Token half = static_cast<Token>(tokens.ordinary_count() / 2);
  const auto is_key = [&](Token t) { return t >= 1 && t <= half; };
  if (s.size() != n + 3) return "length";
  std::map<Token, Token> value;
  for (std::size_t i = 0; i < n; i += 2) {
    if (!is_key(s[i])) return "key";
    if (s[i + 1] <= half || s[i + 1] > 2 * half) return "value";
    if (value.count(s[i]) != 0 && value[s[i]] != s[i + 1]) return "one value for a key";
    value[s[i]] = s[i + 1];
  }
  if (s[n] != tokens.query() || !is_key(s[n + 1])) return "query";
  if (value.count(s[n + 1]) != 0) return s[n + 2] == value[s[n + 1]] ? "" : "answer";
  if (!task.allow_no_answer) return "queried key has come";
  return s[n + 2] == tokens.no_answer() ? "" : "no answer";
}

std::string broken_rule(const MultiQueryRecall& task, const LabeledSequence& s) {
  const auto length = static_cast<std::size_t>(task.length);
  const auto context = 2 * static_cast<std::size_t>(task.pairs);
  const Token half = static_cast<Token>(task.vocabulary / 2);
  if (s.tokens.size() != length || s.targets.size() != length) return "length";
  std::map<Token, Token> value;
  std::set<Token> values;
  for (std::size_t i = 0; i < context; i += 2) {
    if (s.tokens[i] < 1 || s.tokens[i] >= half) return "key";
    if (s.tokens[i + 1] < half || s.tokens[i + 1] >= task.vocabulary) return "value";
    value[s.tokens[i]] = s.tokens[i + 1];
    values.insert(s.tokens[i + 1]);
  }
  if (2 * value.size() != context || 2 * values.size() != context) return "distinct";
  for (std::size_t i = 0; i < length; ++i) {
    const bool asks = s.targets[i] != ignored_target;
    if (asks && (i < context || i % 2 != 0)) return "slot";
    if (asks && (value.count(s.tokens[i]) == 0 || value[s.tokens[i]] != s.targets[i]))
      return "answer";
    if (asks) value.erase(s.tokens[i]);
    if (!asks && i >= context && task.fill == MultiQueryFill::zeros && s.tokens[i] != 0)
      return "fill";
  }
  return value.empty() ? "" : "every key is asked for once";
}

TEST_CASE("ids follow the names sorted as strings") {
  const SyntheticVocabulary twenty(20);
  Tokens in_order(20);
  for (Token id = 0; id < 20; ++id) in_order[static_cast<std::size_t>(id)] = id;
  CHECK(parse_names(twenty, ". 0 1 10 11 12 13 14 15 16 17 2 3 4 5 6 7 8 9 =>") == in_order);
  CHECK(twenty.no_answer() == twenty.id("."));
  CHECK(twenty.query() == twenty.id("=>"));
  CHECK(twenty.ordinary(11) == twenty.id("3"));
  CHECK(SyntheticVocabulary(10).id("7") == 8);
  CHECK(SyntheticVocabulary(10).name(9) == "=>");
  CHECK_THROWS_AS(SyntheticVocabulary(10).id("8"), ArgumentError);
  CHECK_THROWS_AS(SyntheticVocabulary(3), ArgumentError);
}

TEST_CASE("the published induction-head examples have these ids and obey the rules") {
  struct Example {
    Index length;
    const char* names;
    const char* ids;
  };
  const Example examples[] = {
      {12, "3 12 0 0 6 => 2 5 17 8 6 0 => 2", "12 5 1 1 15 19 11 14 10 17 15 1 19 11"},
      {12, "=> 11 7 17 13 15 0 10 4 3 3 14 => 11", "19 4 16 10 6 8 1 3 13 12 12 7 19 4"},
      {30, "3 12 0 0 6 8 2 5 17 8 6 0 7 0 5 11 7 17 13 => 0 10 4 3 3 14 9 9 4 3 => 0",
       "12 5 1 1 15 17 11 14 10 17 15 1 16 1 14 4 16 10 6 19 1 3 13 12 12 7 18 18 13 12 19 1"}};
  for (const Example& e : examples) {
    CHECK(parse_names(SyntheticVocabulary(20), e.names) == parse_ids(e.ids));
    CHECK(broken_rule(InductionHeads{20, e.length}, parse_ids(e.ids)) == "");
  }
}

TEST_CASE("the published associative-recall examples have these ids and obey the rules") {
  const char* examples[][2] = {{"1 6 0 7 0 7 0 7 0 7 3 5 2 6 3 5 2 6 2 6 => 3 5",
                                "2 7 1 8 1 8 1 8 1 8 4 6 3 7 4 6 3 7 3 7 9 4 6"},
                               {"3 6 1 6 3 6 2 6 0 6 1 6 3 6 2 6 0 6 3 6 => 2 6",
                                "4 7 2 7 4 7 3 7 1 7 2 7 4 7 3 7 1 7 4 7 9 3 7"}};
  for (const auto& [names, ids] : examples) {
    CHECK(parse_names(SyntheticVocabulary(10), names) == parse_ids(ids));
    CHECK(broken_rule(AssociativeRecall{}, parse_ids(ids)) == "");
  }
}

TEST_CASE("the published multi-query examples obey the rules") {
  const char* examples[][2] = {{"3 54 30 59 14 48 30  0  3  0  0  0  0  0 14  0",
                                "-  -  -  -  -  - 59  - 54  -  -  -  -  - 48  -"},
                               {"14 42  7 38 26 63 14  0  7  0 26  0  0  0  0  0",
                                "-  -  -  -  -  - 42  - 38  - 63  -  -  -  -  -"}};
  for (const auto& [tokens, labels] : examples)
    CHECK(broken_rule(MultiQueryRecall{.vocabulary = 64, .length = 16, .pairs = 3},
                      {parse_ids(tokens), parse_ids(labels)}) == "");
}

TEST_CASE("generated sequences obey the rules, and a changed token breaks them") {
  Draws draws(Seed{1});
  for (int i = 0; i < 2000; ++i) {
    const InductionHeads heads{.length = 3 + i % 30};
    CHECK(broken_rule(heads, whole(heads.draw(draws))) == "");
    const AssociativeRecall recall{.vocabulary = 6 + i % 8 / 2 * 2, .length = 2 + 2 * (i % 12)};
    CHECK(broken_rule(recall, whole(recall.draw(draws))) == "");
    const MultiQueryRecall queries{
        .vocabulary = 64,
        .length = 16 + 2 * (i % 20),
        .pairs = 1 + i % 4,
        .fill = i % 2 == 0 ? MultiQueryFill::zeros : MultiQueryFill::random};
    CHECK(broken_rule(queries, queries.draw(draws)) == "");
  }
  for (const std::size_t i :
       {0U, 7U, 20U, 21U, 22U}) {  // a key, a value, the query, its key, the answer
    const AssociativeRecall recall;
    Tokens sequence = parse_ids("2 7 1 8 1 8 1 8 1 8 4 6 3 7 4 6 3 7 3 7 9 4 6");
    sequence[i] = i == 0 ? 9 : sequence[i] - 1;
    CHECK(broken_rule(recall, sequence) != "");
  }
}

TEST_CASE("targets are the sequence shifted by one") {
  Draws draws(Seed{2});
  const LabeledSequence s = AssociativeRecall{}.draw(draws);
  REQUIRE(s.tokens.size() == 22);
  for (std::size_t i = 1; i < s.tokens.size(); ++i) CHECK(s.targets[i - 1] == s.tokens[i]);
}

TEST_CASE("a key that has not come is answered by no answer, where that is allowed") {
  Draws draws(Seed{3});
  const AssociativeRecall task{.length = 4, .allow_no_answer = true};
  int unanswered = 0;
  for (int i = 0; i < 1000; ++i) {
    const Tokens s = whole(task.draw(draws));
    CHECK(broken_rule(task, s) == "");
    unanswered += s.back() == 0;
  }
  CHECK(unanswered > 400);  // (3/4)² of them
  CHECK(unanswered < 700);
}

TEST_CASE("no sequence occurs twice in a split, and the same seed gives the same splits") {
  const AssociativeRecall task{.vocabulary = 6, .length = 4};  // 20 sequences in all
  const TaskSplits splits = task_splits(task, Seed{0}, 20, 10);
  for (const TaskSequences* split : {&splits.training, &splits.test}) {
    std::set<Tokens> different;
    for (Index i = 0; i < split->count; ++i) {
      const auto row = split->tokens.begin() + i * split->length;
      different.insert(Tokens(row, row + split->length));
    }
    CHECK(static_cast<Index>(different.size()) == split->count);
  }
  CHECK(splits.training.count == 20);
  CHECK(splits.test.count == 10);
  CHECK(task_splits(task, Seed{0}, 20, 10).test.tokens == splits.test.tokens);
  CHECK(task_splits(task, Seed{1}, 20, 10).test.tokens != splits.test.tokens);
  CHECK_THROWS_AS(task_splits(task, Seed{0}, 1000, 10), ArgumentError);
}

TEST_CASE("only the last target of a test sequence counts") {
  TaskSplits splits = task_splits(InductionHeads{}, Seed{0}, 1, 3);
  const Tokens before = splits.test.targets;
  keep_last_target(splits.test);
  for (std::size_t i = 0; i < before.size(); ++i)
    CHECK(splits.test.targets[i] == (i % 31 == 30 ? before[i] : ignored_target));
}

/// Pearson's statistic of counts against probabilities: about as large as there are counts if they
/// agree.
double chi_square(const std::vector<int>& counts, const std::vector<double>& weights) {
  double total = 0;
  double weight = 0;
  for (const int c : counts) total += c;
  for (const double w : weights) weight += w;
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = total * weights[i] / weight;
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST_CASE("the first query of induction heads is anywhere, and so are the tokens") {
  Draws draws(Seed{5});
  const InductionHeads task;
  std::vector<int> positions(28, 0);
  std::vector<int> answers(18, 0);
  for (int i = 0; i < 20000; ++i) {
    const LabeledSequence s = task.draw(draws);
    for (std::size_t p = 0; p < 28; ++p) positions[p] += s.tokens[p] == 19;
    ++answers[static_cast<std::size_t>(s.targets.back() - 1)];
  }
  CHECK(chi_square(positions, std::vector<double>(28, 1.0)) < 2 * 28);
  CHECK(chi_square(answers, std::vector<double>(18, 1.0)) < 2 * 18);
}

TEST_CASE("slots of multi-query recall follow their power law, without replacement") {
  Draws draws(Seed{6});
  const MultiQueryRecall task{.vocabulary = 64, .length = 16, .pairs = 2};
  std::vector<double> power;
  for (int g = 0; g < 6; ++g) power.push_back(std::pow(g + 1.0, 0.01 - 1));
  std::vector<double> second(6, 0.0);  // the second key's slot, given every first one
  double total = 0;
  for (const double w : power) total += w;
  for (std::size_t f = 0; f < 6; ++f)
    for (std::size_t s = 0; s < 6; ++s)
      if (f != s) second[s] += power[f] / total * power[s] / (total - power[f]);
  std::array<std::vector<int>, 2> counts{std::vector<int>(6, 0), std::vector<int>(6, 0)};
  for (int i = 0; i < 20000; ++i) {
    const LabeledSequence s = task.draw(draws);
    for (std::size_t g = 0; g < 6; ++g)
      for (std::size_t key = 0; key < 2; ++key)
        counts[key][g] += s.targets[4 + 2 * g] == s.tokens[2 * key + 1];
  }
  CHECK(chi_square(counts[0], power) < 3 * 6);
  CHECK(chi_square(counts[1], second) < 3 * 6);
}

TEST_CASE("the least possible losses are the published ones") {
  CHECK(AssociativeRecall{}.loss_floor() == doctest::Approx(0.865).epsilon(0.001));
  CHECK(InductionHeads{}.loss_floor() == doctest::Approx(2.716).epsilon(0.0005));
}

TEST_CASE("sizes that make no task are refused") {
  Draws draws(Seed{7});
  CHECK_THROWS_AS(InductionHeads{.length = 2}.draw(draws), ArgumentError);
  CHECK_THROWS_AS((AssociativeRecall{.vocabulary = 10, .length = 7}.draw(draws)), ArgumentError);
  CHECK_THROWS_AS((AssociativeRecall{.vocabulary = 9, .length = 8}.draw(draws)), ArgumentError);
  CHECK_THROWS_AS((MultiQueryRecall{.length = 10, .pairs = 3}.draw(draws)), ArgumentError);
  CHECK_THROWS_AS((MultiQueryRecall{.vocabulary = 8, .length = 64, .pairs = 4}.draw(draws)),
                  ArgumentError);
}

}  // namespace
