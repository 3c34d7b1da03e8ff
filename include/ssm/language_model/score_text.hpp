// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "ssm/language_model.hpp"
#include "ssm/language_model/completion_options.hpp"  // TokenProbability
#include "ssm/language_model/token_weights.hpp"       // log_sum
#include "ssm/train/scoring_protocol.hpp"

namespace ssm {

/// What a model thought of a token of a text.
struct ScoredToken {
  Index position = 0;  // in the text
  Token token = 0;
  double log_probability = 0;                     // natural; Σ over the text is −TextLoss::nats
  Index rank = 1;                                 // 1 for the likeliest of all
  std::span<const TokenProbability> likeliest{};  // from the likeliest on
};

struct ScoringOptions {
  Index batch = 0;  // windows that are read side by side; 0: as many as `positions` has room for
  Index positions = 0;  // that are read at once: memory depends on it; 0: 1024, fewer where the
                        // vocabulary is large
  Index likeliest = 0;  // tokens in ScoredToken::likeliest
  int threads = 0;      // for sums over the vocabulary, on the host; 0: as many as the model has
  /// Is told every scored token, in the order of the text. Where windows are read side by side, the
  /// tokens of one such group are kept until its end.
  std::function<void(const ScoredToken&)> on_token{};
  /// Is told what is done so far, after each part.
  std::function<void(const TextLoss&)> on_progress{};
};

/// The protocol by which AnyLanguageModel::evaluate measures: the state is carried over the whole
/// text; a model with attention starts afresh every 1024 tokens, one with learned positions before
/// they end.
inline ScoringProtocol default_protocol(const LanguageModelFacts& facts) {
  return {.context = evaluation_context(facts.has_attention, facts.positions)};
}

namespace detail {

class TextScorer {
 public:
  TextScorer(const AnyLanguageModel& model, TokenView text, const ScoringProtocol& protocol,
             const ScoringOptions& options)
      : model_(model),
        text_(text),
        protocol_(protocol),
        options_(options),
        width_(model.facts().padded_vocabulary),
        threads_(static_cast<std::size_t>(
            options.threads > 0 ? options.threads : std::max(1, model.facts().threads))) {
    protocol.require_valid();
    if (options.batch < 0 || options.positions < 0 || options.likeliest < 0 || options.threads < 0)
      throw ArgumentError("scoring: batch, positions, likeliest and threads are at least 0");
    constexpr Index logits = Index{1} << 24;
    positions_ =
        options.positions > 0 ? options.positions : std::clamp<Index>(logits / width_, 64, 1024);
  }

  TextLoss run() {
    const Index count = protocol_.window_count(text_.size());
    if (count == 0) return loss_;
    const Index longest = protocol_.window(text_.size(), 0).length;
    require_positions(longest);
    Index batch = options_.batch;
    if (batch == 0) batch = std::max<Index>(1, positions_ / longest);
    if (protocol_.context == 0) batch = count;  // streams
    for (Index first = 0; first < count; first += batch) {
      windows_.clear();
      for (Index k = first; k < std::min(count, first + batch); ++k)
        windows_.push_back(protocol_.window(text_.size(), k));
      read_windows();
    }
    return loss_;
  }

 private:
  struct ScoredRow {
    std::size_t window = 0;
    std::span<const float> logits{};
    ScoredToken scored{};
    double total = 0;  // ln Σ exp(logits)
  };
  struct KeptToken {
    ScoredToken scored;
    std::vector<TokenProbability> likeliest;
  };

  void require_positions(Index longest) const {
    const Index positions = model_.facts().positions;
    if (positions == 0 || longest <= positions) return;
    throw ArgumentError("the model has learned " + std::to_string(positions) +
                        " positions and cannot read " + std::to_string(longest) +
                        " tokens from one state");
  }

  /// Side by side, each from a fresh state, part by part.
  void read_windows() {
    Index length = 0;
    Index skip = windows_.front().skip;
    for (const ScoringWindow& window : windows_) {
      length = std::max(length, window.length);
      skip = std::min(skip, window.skip);
    }
    const auto rows = static_cast<Index>(windows_.size());
    LanguageModelState state = model_.initial_state(rows);
    kept_.clear();
    kept_.resize(windows_.size());
    const Index at_once = std::max<Index>(1, positions_ / rows);
    for (Index begin = 0; begin < length;) {
      const bool is_context = begin < skip;
      const Index count = std::min(at_once, (is_context ? skip : length) - begin);
      read_part(begin, count, !is_context, state);
      if (!is_context) score_part(begin, count);
      begin += count;
    }
    for (std::vector<KeptToken>& row : kept_)
      for (KeptToken& kept : row) {
        kept.scored.likeliest = kept.likeliest;
        options_.on_token(kept.scored);
      }
  }

  /// Rows that are shorter go on with token 0, which nobody looks at.
  void read_part(Index begin, Index count, bool is_scored, LanguageModelState& state) {
    const auto rows = static_cast<Index>(windows_.size());
    inputs_.assign(static_cast<std::size_t>(rows * count), 0);
    targets_.assign(inputs_.size(), 0);
    for (Index r = 0; r < rows; ++r) {
      const ScoringWindow& window = windows_[static_cast<std::size_t>(r)];
      const Index present = std::clamp<Index>(window.length - begin, 0, count);
      if (present == 0) continue;
      row_.resize(static_cast<std::size_t>(present) + 1);
      text_.read(window.begin + begin, row_);
      model_.require_known(row_);
      std::copy_n(row_.begin(), present, inputs_.begin() + r * count);
      std::copy_n(row_.begin() + 1, present, targets_.begin() + r * count);
    }
    const Index scored = is_scored ? count : 1;
    logits_.resize(static_cast<std::size_t>(rows * scored * width_));
    model_.prefill(View<const Token, 2>(inputs_.data(), {rows, count}),
                   View<float, 3>(logits_.data(), {rows, scored, width_}), state);
  }

  void score_part(Index begin, Index count) {
    rows_.clear();
    for (std::size_t r = 0; r < windows_.size(); ++r) {
      const ScoringWindow& window = windows_[r];
      const Index end = std::min(count, window.length - begin);
      for (Index t = std::max<Index>(0, window.skip - begin); t < end; ++t) {
        const Index at = static_cast<Index>(r) * count + t;
        const auto logits = std::span<const float>(logits_).subspan(
            static_cast<std::size_t>(at * width_), static_cast<std::size_t>(width_));
        rows_.push_back({.window = r,
                         .logits = logits,
                         .scored = {.position = window.begin + begin + t + 1,
                                    .token = targets_[static_cast<std::size_t>(at)]}});
      }
    }
    measure_rows();
    for (ScoredRow& row : rows_) tell(row);
    if (options_.on_progress) options_.on_progress(loss_);
  }

  /// In threads, since sums over a large vocabulary take longer than a small model.
  void measure_rows() {
    constexpr std::size_t logits_per_thread = 1 << 16;
    const std::size_t enough =
        rows_.size() * static_cast<std::size_t>(width_) / logits_per_thread + 1;
    const std::size_t threads = std::min(threads_, enough);
    const auto measure_every = [&](std::size_t first) {
      for (std::size_t i = first; i < rows_.size(); i += threads) measure(rows_[i]);
    };
    std::vector<std::jthread> others;
    for (std::size_t i = 1; i < threads; ++i) others.emplace_back(measure_every, i);
    measure_every(0);
  }
  /// ln p(token) = logit − ln Σ exp(logits), over all rows of the head
  void measure(ScoredRow& row) const {
    const float logit = row.logits[static_cast<std::size_t>(row.scored.token)];
    row.total = log_sum(row.logits);
    row.scored.log_probability = logit - row.total;
    if (options_.on_token)
      row.scored.rank = 1 + std::count_if(row.logits.begin(), row.logits.end(),
                                          [&](float other) { return other > logit; });
  }

  void tell(ScoredRow& row) {
    loss_.nats -= row.scored.log_probability;
    ++loss_.tokens;
    if (!options_.on_token) return;
    row.scored.likeliest = likeliest_of(row.logits, row.total);
    if (windows_.size() == 1) return options_.on_token(row.scored);
    kept_[row.window].push_back({row.scored, likeliest_});
  }

  std::span<const TokenProbability> likeliest_of(std::span<const float> logits, double total) {
    likeliest_.clear();
    if (options_.likeliest == 0) return {};
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), Token{0});
    const auto count =
        std::min<std::ptrdiff_t>(options_.likeliest, static_cast<std::ptrdiff_t>(order_.size()));
    const auto of = [&](Token v) { return logits[static_cast<std::size_t>(v)]; };
    std::partial_sort(order_.begin(), order_.begin() + count, order_.end(),
                      [&](Token v, Token w) { return of(v) > of(w) || (of(v) == of(w) && v < w); });
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const Token v = order_[static_cast<std::size_t>(i)];
      likeliest_.push_back({.token = v, .log_probability = of(v) - total});
    }
    return likeliest_;
  }

  const AnyLanguageModel& model_;
  TokenView text_;
  const ScoringProtocol& protocol_;
  const ScoringOptions& options_;
  Index width_;
  Index positions_ = 1;
  std::size_t threads_;
  TextLoss loss_;
  std::vector<ScoringWindow> windows_;  // that are read now
  std::vector<std::vector<KeptToken>> kept_;
  std::vector<ScoredRow> rows_;
  std::vector<Token> row_, inputs_, targets_, order_;
  std::vector<float> logits_;
  std::vector<TokenProbability> likeliest_;
};

}  // namespace detail

/// How well a model predicts a text by a protocol, and what it thought of each token: the numbers
/// behind every perplexity. Probabilities are over all rows of the head, padding included; the sum
/// is in double, on the host.
///   const TextLoss loss = score_text(model, text, ScoringProtocol::windows(1024));
///   const double per_token = perplexity(loss), per_word = perplexity(loss, words);
/// Cost    a pass over what each window reads: tokens · context / stride; memory for `positions`
///         rows of logits
/// Throws  ArgumentError  for tokens that the model does not have, more tokens from one state than
///                        it has learned positions, a protocol that makes no sense; and what
///                        reading the text throws
inline TextLoss score_text(const AnyLanguageModel& model, TokenView text,
                           const ScoringProtocol& protocol, const ScoringOptions& options = {}) {
  return detail::TextScorer(model, text, protocol, options).run();
}

}  // namespace ssm
