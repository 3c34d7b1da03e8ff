// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/evaluate/continuations.hpp"
#include "ssm/evaluate/task.hpp"
#include "ssm/evaluate/text.hpp"
#include "ssm/io/word_count.hpp"

namespace ssm {

/// What came of an item.
struct ItemScore {
  std::vector<ContinuationScore> choices{};  // or of the one continuation, or of the whole text
  std::string text{};                        // that the model wrote
  /// The choice that the model takes: that of the largest score by the task's style, or that which
  /// it wrote; −1: none.
  Index predicted = -1;
  std::string prompt{};  // if asked for, of the first choice
};

/// A number about a task.
struct MetricValue {
  std::string name{};
  double value = 0;
  std::optional<double> error{};  // standard error, where there is a formula
};

/// How much of the right answer's words are in an answer, and the reverse: their harmonic mean.
///   F1 = 2 P R / (P + R),  P = common / words of the answer,  R = common / words of the right one
/// Source  Rajpurkar et al. 2016 (SQuAD)
inline double answer_f1(std::string_view answer, std::string_view right) {
  const std::vector<std::string> a = detail::answer_words(answer), b = detail::answer_words(right);
  if (a.empty() || b.empty()) return a == b ? 1 : 0;
  std::map<std::string, Index> counts;
  for (const std::string& word : b) ++counts[word];
  double common = 0;
  for (const std::string& word : a)
    if (counts[word]-- > 0) ++common;
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(a.size());
  const double recall = common / static_cast<double>(b.size());
  return 2 * precision * recall / (precision + recall);
}
/// Whether two answers are the same but for case, punctuation, articles and spaces.
inline bool is_same_answer(std::string_view answer, std::string_view right) {
  return detail::answer_words(answer) == detail::answer_words(right);
}

namespace detail {

/// Which is the largest, the first one of equals.
inline Index largest(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

/// Counts what a task's metrics want to know.
class MetricCounter {
 public:
  MetricCounter(const EvaluationTask& task, const std::vector<EvaluationItem>& items,
                const std::vector<ItemScore>& scores)
      : task_(task), items_(items), scores_(scores) {}

  /// Throws  ArgumentError  for a metric that is not there
  MetricValue value(const std::string& name) const {
    if (name == "acc") return mean(name, [&](std::size_t i) { return is_right(i); });
    for (const char* norm : {"acc_norm", "acc_bytes", "acc_tokens"})
      if (name == norm)
        return mean(name, [&](std::size_t i) { return choice_by(name, i) == items_[i].answer; });
    if (name == "em") return mean(name, [&](std::size_t i) { return best(i, is_same_answer); });
    if (name == "f1") return mean(name, [&](std::size_t i) { return best(i, answer_f1); });
    if (name == "exact_match")
      return mean(name, [&](std::size_t i) { return best(i, std::equal_to<std::string_view>()); });
    if (name == "f1_macro") return {.name = name, .value = f1_macro()};
    if (name == "f1a") return {.name = name, .value = f1_of_answers()};
    if (name == "exact_questions") return exact_groups(name);
    if (name == "perplexity") {
      const MetricValue loss =
          mean(name, [&](std::size_t i) { return -scores_[i].choices[0].log_probability; });
      return exponential(loss);
    }
    if (name == "word_perplexity") return exponential(by_size(name, words()));
    if (name == "byte_perplexity") return exponential(by_size(name, bytes()));
    if (name == "bits_per_byte") {
      MetricValue loss = by_size(name, bytes());
      loss.value /= std::log(2.0);
      if (loss.error) *loss.error /= std::log(2.0);
      return loss;
    }
    throw ArgumentError("there is no metric '" + printable(name) + "'");
  }

 private:
  /// By the likeliest as a whole, whatever the style of the task.
  bool is_right(std::size_t i) const {
    if (task_.kind == TaskKind::continuation) return scores_[i].choices[0].is_greedy;
    if (task_.kind == TaskKind::generation) return scores_[i].predicted == items_[i].answer;
    return choice_by("acc", i) == items_[i].answer;
  }
  Index choice_by(std::string_view norm, std::size_t i) const {
    const TaskTexts texts(task_, items_[i]);
    std::vector<double> values;
    for (std::size_t k = 0; k < scores_[i].choices.size(); ++k) {
      const ContinuationScore& score = scores_[i].choices[k];
      double size = 1;
      if (norm == "acc_norm") size = static_cast<double>(character_count(texts.choice(k)));
      if (norm == "acc_bytes") size = static_cast<double>(texts.choice(k).size());
      if (norm == "acc_tokens") size = static_cast<double>(score.tokens);
      values.push_back(score.log_probability / size);
    }
    return largest(values);
  }
  std::string answer_text(std::size_t i) const {
    if (task_.kind == TaskKind::generation) return scores_[i].text;
    const auto predicted = static_cast<std::size_t>(scores_[i].predicted);
    return items_[i].options.empty() ? TaskTexts(task_, items_[i]).choice(predicted)
                                     : items_[i].options[predicted];
  }
  /// The best agreement with any of the texts that are right.
  template <class Agreement>
  double best(std::size_t i, Agreement agreement) const {
    double value = 0;
    const std::string text = answer_text(i);
    for (const std::string& right : items_[i].references)
      value = std::max(value, static_cast<double>(agreement(text, right)));
    return value;
  }

  /// x̄, and the standard deviation of a sample / √n
  template <class Value>
  MetricValue mean(const std::string& name, Value&& value) const {
    std::vector<double> values;
    for (std::size_t i = 0; i < items_.size(); ++i) values.push_back(static_cast<double>(value(i)));
    return mean_of(name, values);
  }
  static MetricValue mean_of(const std::string& name, const std::vector<double>& values) {
    const auto n = static_cast<double>(values.size());
    double sum = 0, squares = 0;
    for (const double x : values) sum += x;
    for (const double x : values) squares += (x - sum / n) * (x - sum / n);
    MetricValue result{.name = name, .value = sum / n};
    if (n > 1) result.error = std::sqrt(squares / (n - 1)) / std::sqrt(n);
    return result;
  }
  /// Σ nats / Σ size, and the standard error of such a ratio.
  MetricValue by_size(const std::string& name, const std::vector<double>& sizes) const {
    double nats = 0, size = 0, squares = 0;
    const auto n = static_cast<double>(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      nats -= scores_[i].choices[0].log_probability;
      size += sizes[i];
    }
    MetricValue result{.name = name, .value = nats / size};
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const double rest = scores_[i].choices[0].log_probability + result.value * sizes[i];
      squares += rest * rest;
    }
    if (n > 1) result.error = std::sqrt(squares * n / (n - 1)) / size;
    return result;
  }
  static MetricValue exponential(MetricValue loss) {
    loss.value = std::exp(loss.value);
    if (loss.error) *loss.error *= loss.value;
    return loss;
  }
  /// The text as it was, whose words and bytes count.
  std::string page(std::size_t i) const {
    const auto original = items_[i].fields.find("original");
    return original != items_[i].fields.end() ? original->second
                                              : TaskTexts(task_, items_[i]).continuation(0);
  }
  /// As re.split(r"\s+", page) counts them.
  std::vector<double> words() const {
    std::vector<double> sizes;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      WordCount count;
      count.add(page(i));
      sizes.push_back(static_cast<double>(count.pieces()));
    }
    return sizes;
  }
  std::vector<double> bytes() const {
    std::vector<double> sizes;
    for (std::size_t i = 0; i < items_.size(); ++i)
      sizes.push_back(static_cast<double>(page(i).size()));
    return sizes;
  }

  /// 2 · hits / (predicted + there), of one choice
  static double f1(double hits, double predicted, double there) {
    return predicted + there == 0 ? 0 : 2 * hits / (predicted + there);
  }
  /// The mean over the choices.
  double f1_macro() const {
    const std::size_t count = task_.choices.size();
    double sum = 0;
    for (std::size_t k = 0; k < count; ++k) {
      double hits = 0, predicted = 0, there = 0;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        const bool says = scores_[i].predicted == static_cast<Index>(k);
        const bool is = items_[i].answer == static_cast<Index>(k);
        hits += says && is ? 1 : 0;
        predicted += says ? 1 : 0;
        there += is ? 1 : 0;
      }
      sum += f1(hits, predicted, there);
    }
    return count == 0 ? 0 : sum / static_cast<double>(count);
  }
  /// Of the second choice, "yes", over all answers of all questions; none predicted is a precision
  /// of 1, none there a recall of 1.
  double f1_of_answers() const {
    double hits = 0, predicted = 0, there = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      predicted += scores_[i].predicted == 1 ? 1 : 0;
      there += items_[i].answer == 1 ? 1 : 0;
      hits += scores_[i].predicted == 1 && items_[i].answer == 1 ? 1 : 0;
    }
    const double precision = predicted > 0 ? hits / predicted : 1;
    const double recall = there > 0 ? hits / there : 1;
    return precision + recall == 0 ? 0 : 2 * precision * recall / (precision + recall);
  }
  /// The share of groups all of whose items are right.
  MetricValue exact_groups(const std::string& name) const {
    std::map<std::string, double> groups;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const double right = scores_[i].predicted == items_[i].answer ? 1 : 0;
      const auto [group, is_new] = groups.emplace(items_[i].group, right);
      if (!is_new) group->second = std::min(group->second, right);
    }
    std::vector<double> values;
    for (const auto& group : groups) values.push_back(group.second);
    return mean_of(name, values);
  }

  const EvaluationTask& task_;
  const std::vector<EvaluationItem>& items_;
  const std::vector<ItemScore>& scores_;
};

}  // namespace detail
}  // namespace ssm
