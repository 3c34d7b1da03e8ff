// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/random.hpp"
#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// A stream of random numbers that remembers where it is.
class Draws {
 public:
  explicit Draws(Seed seed) : random_(seed) {}

  /// Uniform in 0 … n−1.
  Index below(Index n) {
    return static_cast<Index>(random_.below(next_++, static_cast<std::uint64_t>(n)));
  }
  /// Uniform in [0, 1).
  double uniform() { return random_.uniform(next_++); }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

/// The target of a position that does not count; CrossEntropy ignores it.
inline constexpr Token ignored_target = -100;

/// What a model reads, and what it should say after each position.
struct LabeledSequence {
  std::vector<Token> tokens;
  std::vector<Token> targets;
};

/// The tokens of associative recall and induction heads: numbers 0 … size−3, the query marker "=>",
/// and "." for no answer. A token's id is its place among the names sorted as strings, so "." is
/// first, "=>" last, and "10" comes before "2".
/// Throws  ArgumentError  for a size below 4 and for names that do not exist
class SyntheticVocabulary {
 public:
  explicit SyntheticVocabulary(Index size) {
    if (size < 4)
      throw ArgumentError("synthetic vocabulary: needs at least 4 tokens, got " +
                          std::to_string(size));
    names_ = {".", "=>"};
    for (Index number = 0; number < size - 2; ++number) names_.push_back(std::to_string(number));
    std::sort(names_.begin(), names_.end());
  }

  Index size() const { return static_cast<Index>(names_.size()); }
  Token no_answer() const { return 0; }
  Token query() const { return static_cast<Token>(size() - 1); }

  /// The numbers, in the order of their ids: 1 … size−2.
  Index ordinary_count() const { return size() - 2; }
  Token ordinary(Index i) const { return static_cast<Token>(i + 1); }

  const std::string& name(Token id) const { return names_.at(static_cast<std::size_t>(id)); }
  Token id(std::string_view name) const {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end())
      throw ArgumentError("synthetic vocabulary: no token is named '" + std::string(name) + "'");
    return static_cast<Token>(found - names_.begin());
  }

 private:
  std::vector<std::string> names_;
};

/// All tokens but the last as inputs, all but the first as targets.
inline LabeledSequence next_token_targets(const std::vector<Token>& sequence) {
  return {{sequence.begin(), sequence.end() - 1}, {sequence.begin() + 1, sequence.end()}};
}

/// Which token followed the query marker the first time?
///   n random tokens, one of the first n−2 overwritten by "=>", then "=>" and a copy of the token
///   after the first one
/// length   n; the model reads n + 1 tokens
/// Throws  ArgumentError  for a length below 3
/// Source  Fu et al. 2023 (H3) §3.1; Olsson et al. 2022
struct InductionHeads {
  Index vocabulary = 20;
  Index length = 30;

  LabeledSequence draw(Draws& draws) const {
    if (length < 3) throw ArgumentError("induction heads: a length of 3 at least");
    const SyntheticVocabulary tokens(vocabulary);
    std::vector<Token> sequence;
    for (Index i = 0; i < length; ++i)
      sequence.push_back(tokens.ordinary(draws.below(tokens.ordinary_count())));
    const auto marked = static_cast<std::size_t>(draws.below(length - 2));
    sequence[marked] = tokens.query();
    sequence.push_back(tokens.query());
    sequence.push_back(sequence[marked + 1]);
    return next_token_targets(sequence);
  }

  /// The least mean loss of all targets, in nats: a model far below it sees the future or remembers
  /// its training data.
  double loss_floor() const {
    const auto places = static_cast<double>(length - 2);
    const double token = std::log(static_cast<double>(vocabulary - 2));
    const double all = std::log(places) + static_cast<double>(length - 1) * token;
    const double first =
        std::log(places) / places + (1 - 1 / places) * (token - std::log1p(-1 / places));
    return (all - first) / static_cast<double>(length + 1);  // the first token is no target
  }
};

/// Which value belonged to this key?
///   n/2 pairs key, value, where a value is the same whenever its key comes again; then "=>",
///   a key, and its value
/// The first half of the ordinary tokens are keys, the second half values. Every sequence has its
/// own map from keys to values.
/// length            n; the model reads n + 2 tokens
/// allow_no_answer   the last key may be one that has not come, with the answer "."
/// Throws  ArgumentError  for an odd length or vocabulary
/// Source  Fu et al. 2023 (H3) §3.1
struct AssociativeRecall {
  Index vocabulary = 10;
  Index length = 20;
  bool allow_no_answer = false;

  LabeledSequence draw(Draws& draws) const {
    if (length < 2 || length % 2 != 0)
      throw ArgumentError("associative recall: the length must be even and at least 2");
    if (vocabulary % 2 != 0)
      throw ArgumentError(
          "associative recall: the vocabulary must be even, half keys, half values");
    const SyntheticVocabulary tokens(vocabulary);
    const Index keys = tokens.ordinary_count() / 2;
    std::vector<Index> value(static_cast<std::size_t>(keys));
    for (Index& v : value) v = keys + draws.below(keys);
    std::vector<bool> seen(static_cast<std::size_t>(keys), false);
    std::vector<Token> sequence;
    for (Index pair = 0; pair < length / 2; ++pair) {
      const auto key = static_cast<std::size_t>(draws.below(keys));
      seen[key] = true;
      sequence.push_back(tokens.ordinary(static_cast<Index>(key)));
      sequence.push_back(tokens.ordinary(value[key]));
    }
    auto query = static_cast<std::size_t>(draws.below(keys));
    while (!seen[query] && !allow_no_answer) query = static_cast<std::size_t>(draws.below(keys));
    sequence.push_back(tokens.query());
    sequence.push_back(tokens.ordinary(static_cast<Index>(query)));
    sequence.push_back(seen[query] ? tokens.ordinary(value[query]) : tokens.no_answer());
    return next_token_targets(sequence);
  }

  /// The least mean loss of all targets, in nats. Without `allow_no_answer`.
  double loss_floor() const {
    const auto keys = static_cast<std::size_t>(vocabulary - 2) / 2;
    const auto total = static_cast<double>(keys);
    std::vector<double> different(keys + 1, 0.0);  // probability of so many different keys so far
    different[0] = 1;
    for (Index pair = 0; pair < length / 2; ++pair)
      for (std::size_t m = keys + 1; m-- > 0;)
        different[m] = different[m] * static_cast<double>(m) / total +
                       (m > 0 ? different[m - 1] * (1 - static_cast<double>(m - 1) / total) : 0);
    double sum = (static_cast<double>(length / 2) - 1) * std::log(total);  // keys but the first
    for (std::size_t m = 1; m <= keys; ++m)  // a value when its key is new, and the key asked for
      sum += different[m] *
             (static_cast<double>(m) * std::log(total) + std::log(static_cast<double>(m)));
    return sum / static_cast<double>(length + 2);
  }
};

enum class MultiQueryFill { zeros, random };

/// Multi-query associative recall (MQAR): many keys are asked for, all over the rest of the
/// sequence.
///   K pairs key, value; then every key once more, in slot g of every second position with
///   probability ∝ (g + 1)^(a−1)
/// The target of a query's own position is the key's value; all other positions are ignored. Token
/// 0 fills the gaps, keys are 1 … V/2−1, values V/2 … V−1.
/// Throws  ArgumentError  unless length is even, 4·pairs ≤ length and there are enough keys
/// Source  Arora et al. 2023 (Zoology) §4
struct MultiQueryRecall {
  Index vocabulary = 8192;
  Index length = 64;
  Index pairs = 4;
  double exponent = 0.01;
  MultiQueryFill fill = MultiQueryFill::zeros;

  LabeledSequence draw(Draws& draws) const {
    if (length % 2 != 0 || pairs < 1 || 4 * pairs > length)
      throw ArgumentError(
          "multi-query recall: the length must be even and hold 4 tokens for every pair");
    if (vocabulary / 2 - 1 < pairs)
      throw ArgumentError("multi-query recall: more pairs than keys in the vocabulary");
    const auto size = static_cast<std::size_t>(length);
    const Index half = vocabulary / 2;
    const auto keys = distinct(draws, 1, half - 1);
    const auto values = distinct(draws, half, vocabulary - half);
    LabeledSequence result{std::vector<Token>(size, 0), std::vector<Token>(size, ignored_target)};
    if (fill == MultiQueryFill::random)
      for (Token& token : result.tokens) token = static_cast<Token>(draws.below(vocabulary));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      result.tokens[2 * i] = keys[i];
      result.tokens[2 * i + 1] = values[i];
    }
    const std::vector<std::size_t> slots = query_slots(draws);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::size_t position = 2 * keys.size() + 2 * slots[i];
      result.tokens[position] = keys[i];
      result.targets[position] = values[i];
    }
    return result;
  }

 private:
  /// As many different tokens as there are pairs, from `count` of them.
  std::vector<Token> distinct(Draws& draws, Index first, Index count) const {
    std::set<Token> taken;
    std::vector<Token> result;
    while (static_cast<Index>(result.size()) < pairs) {
      const auto token = static_cast<Token>(first + draws.below(count));
      if (taken.insert(token).second) result.push_back(token);
    }
    return result;
  }

  /// The slot of every key, drawn one after the other among those still free.
  std::vector<std::size_t> query_slots(Draws& draws) const {
    const auto count = static_cast<std::size_t>((length - 2 * pairs) / 2);
    std::vector<double> weight(count);
    double total = 0;
    for (std::size_t g = 0; g < count; ++g)
      total += weight[g] = std::pow(static_cast<double>(g + 1), exponent - 1);
    std::vector<std::size_t> result;
    for (Index pair = 0; pair < pairs; ++pair) {
      double rest = draws.uniform() * total;
      std::size_t chosen = count;
      for (std::size_t g = 0; g < count && (chosen == count || rest >= 0); ++g)
        if (weight[g] > 0) {  // the last free slot takes what rounding leaves over
          chosen = g;
          rest -= weight[g];
        }
      total -= std::exchange(weight[chosen], 0.0);
      result.push_back(chosen);
    }
    return result;
  }
};

/// Sequences of one length, row after row.
struct TaskSequences {
  Index count = 0;
  Index length = 0;
  std::vector<Token> tokens;   // [count, length]
  std::vector<Token> targets;  // [count, length]

  void append(const LabeledSequence& sequence) {
    ++count;
    length = static_cast<Index>(sequence.tokens.size());
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    targets.insert(targets.end(), sequence.targets.begin(), sequence.targets.end());
  }
};

/// `count` sequences of a task, no two of them equal: a repetition is replaced by a new sequence.
/// Throws  ArgumentError  where the task does not seem to have that many
template <class Task>
TaskSequences different_sequences(const Task& task, Draws& draws, Index count) {
  constexpr int patience = 10000;  // repetitions in a row
  TaskSequences result;
  std::set<std::vector<Token>> seen;
  for (int repetitions = 0; result.count < count;) {
    const LabeledSequence sequence = task.draw(draws);
    std::vector<Token> whole = sequence.tokens;
    whole.insert(whole.end(), sequence.targets.begin(), sequence.targets.end());
    if (seen.insert(std::move(whole)).second) {
      result.append(sequence);
      repetitions = 0;
    } else if (++repetitions == patience) {
      throw ArgumentError("synthetic task: only " + std::to_string(result.count) + " of " +
                          std::to_string(count) + " different sequences found");
    }
  }
  return result;
}

/// Training and test sequences from one stream, the training sequences first; both may hold the
/// same sequence.
struct TaskSplits {
  TaskSequences training;
  TaskSequences test;
};
template <class Task>
TaskSplits task_splits(const Task& task, Seed seed, Index training, Index test) {
  Draws draws(seed);
  TaskSplits splits;
  splits.training = different_sequences(task, draws, training);
  splits.test = different_sequences(task, draws, test);
  return splits;
}

/// Makes every target but the last of each sequence an ignored one: how recall and induction are
/// scored.
inline void keep_last_target(TaskSequences& sequences) {
  for (Index i = 0; i < sequences.count * sequences.length; ++i)
    if ((i + 1) % sequences.length != 0)
      sequences.targets[static_cast<std::size_t>(i)] = ignored_target;
}

}  // namespace ssm
