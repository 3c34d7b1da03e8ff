// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "ssm/language_model.hpp"
#include "ssm/language_model/token_weights.hpp"  // log_sum

namespace ssm {

/// A text behind another one: how likely is it?
struct ContinuationRequest {
  std::vector<Token> context{};       // read, not scored; at least one token
  std::vector<Token> continuation{};  // scored; at least one token
};

/// How likely it is.
struct ContinuationScore {
  double log_probability = 0;  // natural, of all tokens
  Index tokens = 0;
  bool is_greedy = true;  // each token is the likeliest of all
};

/// How much is read at once, and who is told.
struct ContinuationOptions {
  Index batch = 0;      // sequences that are read side by side; 0: 32
  Index positions = 0;  // that are read at once: memory depends on it; 0: 1024, fewer where the
                        // vocabulary is large
  int threads = 0;      // for sums over the vocabulary, on the host; 0: as many as the model has
  /// Is told how many requests are done and how many tokens were read, after each part; false: stop
  /// there.
  std::function<bool(Index requests, Index tokens)> on_progress{};
};

namespace detail {

/// One call of score_continuations. The requests are a tree of tokens: sequences that begin alike
/// share the way from the root, and every edge of it is read once. An edge that is read is replaced
/// by those behind it, which begin with copies of its state; the latest ones come first, so that
/// few states are kept.
class ContinuationScorer {
 public:
  ContinuationScorer(const AnyLanguageModel& model,
                     const std::vector<ContinuationRequest>& requests,
                     const ContinuationOptions& options)
      : model_(model),
        requests_(requests),
        options_(options),
        width_(model.facts().padded_vocabulary),
        threads_(static_cast<std::size_t>(
            options.threads > 0 ? options.threads : std::max(1, model.facts().threads))),
        scores_(requests.size()) {
    if (options.batch < 0 || options.positions < 0 || options.threads < 0)
      throw ArgumentError("continuations: batch, positions and threads are at least 0");
    constexpr Index logits = Index{1} << 24;
    positions_ =
        options.positions > 0 ? options.positions : std::clamp<Index>(logits / width_, 64, 1024);
    batch_ = static_cast<std::size_t>(options.batch > 0 ? options.batch : 32);
    for (const ContinuationRequest& request : requests) require(request);
  }

  std::vector<ContinuationScore> run() {
    order_.resize(requests_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      const std::size_t common = common_length(a, b);
      if (common == length(a) || common == length(b)) return length(a) < length(b);
      return token(a, common) < token(b, common);
    });
    add_edges(0, order_.size(), 0, {});
    while (!edges_.empty()) {
      read(take_batch());
      if (options_.on_progress && !options_.on_progress(done_, tokens_)) break;
    }
    return std::move(scores_);
  }
  Index tokens_read() const { return tokens_; }

 private:
  /// Where an edge begins: a row of a state that others share.
  struct Place {
    std::shared_ptr<const LanguageModelState> state{};
    Index row = 0;
  };
  /// Tokens begin … end−1 of the requests order_[first] … order_[last−1], which share them.
  struct Edge {
    std::size_t first = 0, last = 0;
    std::size_t begin = 0, end = 0;
    std::size_t scored = 0;  // the first position whose logits somebody wants, or end
    Place from{};

    std::size_t size() const { return end - begin; }
    bool wants_all() const { return scored + 1 < end; }
  };

  [[noreturn]] static void refuse(const std::string& what) {
    throw ArgumentError("continuations: " + what);
  }
  void require(const ContinuationRequest& request) const {
    if (request.context.empty()) refuse("a context is empty");
    if (request.continuation.empty()) refuse("a continuation is empty");
    model_.require_known(request.context);
    model_.require_known(request.continuation);
    const auto read = static_cast<Index>(request.context.size() + request.continuation.size() - 1);
    const Index positions = model_.facts().positions;
    if (positions > 0 && read > positions)
      refuse("the model has learned " + std::to_string(positions) + " positions and cannot read " +
             std::to_string(read) + " tokens");
  }

  /// How many tokens of a request are read: the last one is predicted alone.
  std::size_t length(std::size_t request) const {
    return requests_[request].context.size() + requests_[request].continuation.size() - 1;
  }
  Token token(std::size_t request, std::size_t at) const {
    const ContinuationRequest& of = requests_[request];
    return at < of.context.size() ? of.context[at] : of.continuation[at - of.context.size()];
  }
  std::size_t first_scored(std::size_t request) const {
    return requests_[request].context.size() - 1;
  }
  std::size_t common_length(std::size_t a, std::size_t b, std::size_t from = 0) const {
    const std::size_t end = std::min(length(a), length(b));
    std::size_t at = from;
    while (at < end && token(a, at) == token(b, at)) ++at;
    return at;
  }

  /// The edges behind `depth` tokens that order_[first] … order_[last−1] have in common.
  void add_edges(std::size_t first, std::size_t last, std::size_t depth, const Place& from) {
    while (first < last && length(order_[first]) == depth) ++first;  // these are at their end
    while (first < last) {
      std::size_t end = first + 1;
      const Token next = token(order_[first], depth);
      while (end < last && token(order_[end], depth) == next) ++end;
      // Sorted: what the first and the last one have in common, all have.
      Edge edge{.first = first,
                .last = end,
                .begin = depth,
                .end = common_length(order_[first], order_[end - 1], depth),
                .from = from};
      edge.scored = edge.end;
      for (std::size_t i = first; i < end; ++i)
        edge.scored = std::min(edge.scored, std::max(depth, first_scored(order_[i])));
      // What is context alone is read by itself, without logits.
      if (edge.wants_all() && edge.scored > edge.begin) edge.end = edge.scored;
      edges_.push_back(std::move(edge));
      first = end;
    }
  }
  /// Nothing begins where it ends.
  bool is_leaf(const Edge& edge) const { return length(order_[edge.last - 1]) == edge.end; }

  /// Edges that one call reads: all of those whose last logits are wanted, or all of those where
  /// more are. Rows of the latter may differ in length only where no state is needed afterwards.
  std::vector<Edge> take_batch() {
    std::vector<Edge> taken;
    std::vector<Edge> kept;
    std::size_t longest = 0;
    bool are_leaves = true, are_equal = true;
    while (!edges_.empty() && taken.size() < batch_) {
      Edge edge = std::move(edges_.back());
      edges_.pop_back();
      bool fits = taken.empty();
      if (!fits && edge.wants_all() == taken.front().wants_all()) {
        const std::size_t widest = std::max(longest, edge.size());
        const bool is_small = (taken.size() + 1) * widest <= static_cast<std::size_t>(positions_);
        const bool is_padded = are_leaves && is_leaf(edge);
        fits =
            !edge.wants_all() || (is_small && (is_padded || (are_equal && edge.size() == longest)));
      }
      if (fits) {
        are_leaves = are_leaves && is_leaf(edge);
        are_equal = are_equal && (taken.empty() || edge.size() == longest);
        longest = std::max(longest, edge.size());
        taken.push_back(std::move(edge));
      } else {
        kept.push_back(std::move(edge));
        if (kept.size() == batch_) break;
      }
    }
    while (!kept.empty()) {
      edges_.push_back(std::move(kept.back()));
      kept.pop_back();
    }
    return taken;
  }

  void read(const std::vector<Edge>& batch) {
    auto state = std::make_shared<LanguageModelState>(
        model_.initial_state(static_cast<Index>(batch.size())));
    for (std::size_t r = 0; r < batch.size(); ++r)
      if (batch[r].from.state)
        batch[r].from.state->copy_row(batch[r].from.row, *state, static_cast<Index>(r));
    if (batch.front().wants_all())
      read_scored(batch, *state);
    else
      read_contexts(batch, *state);
    for (std::size_t r = 0; r < batch.size(); ++r) {
      tokens_ += static_cast<Index>(batch[r].size());
      if (!is_leaf(batch[r]))
        add_edges(batch[r].first, batch[r].last, batch[r].end, {state, static_cast<Index>(r)});
    }
  }

  /// Packed, chunk by chunk; of each row the logits behind its last token.
  void read_contexts(const std::vector<Edge>& batch, LanguageModelState& state) {
    std::vector<std::size_t> done(batch.size(), 0);
    for (;;) {
      std::size_t waiting = 0;
      for (std::size_t r = 0; r < batch.size(); ++r) waiting += done[r] < batch[r].size() ? 1 : 0;
      if (waiting == 0) return;
      const std::size_t share = std::max<std::size_t>(1, context_chunk / waiting);
      std::vector<Token> tokens;
      std::vector<Index> segments{0};
      std::vector<std::size_t> rows;
      for (std::size_t r = 0; r < batch.size(); ++r) {
        const std::size_t count = std::min(share, batch[r].size() - done[r]);
        for (std::size_t i = 0; i < count; ++i)
          tokens.push_back(token(order_[batch[r].first], batch[r].begin + done[r] + i));
        segments.push_back(static_cast<Index>(tokens.size()));
        done[r] += count;
        if (count > 0) rows.push_back(r);
      }
      logits_.resize(rows.size() * static_cast<std::size_t>(width_));
      model_.prefill(tokens, segments,
                     View<float, 2>(logits_.data(), {static_cast<Index>(rows.size()), width_}),
                     state);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const Edge& edge = batch[rows[i]];
        if (done[rows[i]] == edge.size() && edge.scored < edge.end) want(edge, edge.end - 1, i);
      }
      score();
    }
  }

  /// Side by side, as many positions at a time as there is room for; shorter rows go on with token
  /// 0, which nobody looks at.
  void read_scored(const std::vector<Edge>& batch, LanguageModelState& state) {
    std::size_t length = 0;
    for (const Edge& edge : batch) length = std::max(length, edge.size());
    const std::size_t at_once =
        std::max<std::size_t>(1, static_cast<std::size_t>(positions_) / batch.size());
    std::vector<Token> tokens;
    for (std::size_t begin = 0; begin < length; begin += at_once) {
      const std::size_t count = std::min(at_once, length - begin);
      tokens.assign(batch.size() * count, 0);
      for (std::size_t r = 0; r < batch.size(); ++r)
        for (std::size_t i = begin; i < std::min(begin + count, batch[r].size()); ++i)
          tokens[r * count + i - begin] = token(order_[batch[r].first], batch[r].begin + i);
      const auto rows = static_cast<Index>(batch.size());
      const auto columns = static_cast<Index>(count);
      logits_.resize(tokens.size() * static_cast<std::size_t>(width_));
      model_.prefill(View<const Token, 2>(tokens.data(), {rows, columns}),
                     View<float, 3>(logits_.data(), {rows, columns, width_}), state);
      for (std::size_t r = 0; r < batch.size(); ++r)
        for (std::size_t i = begin; i < std::min(begin + count, batch[r].size()); ++i)
          if (batch[r].begin + i >= batch[r].scored)
            want(batch[r], batch[r].begin + i, r * count + i - begin);
      score();
    }
  }

  /// A row of logits, and who wants to know a probability from it.
  struct Wanted {
    std::size_t row = 0;
    std::size_t first = 0, last = 0;  // of order_
    std::size_t position = 0;
    double total = 0;  // ln Σ exp(logits)
    Token likeliest = 0;
  };
  void want(const Edge& edge, std::size_t position, std::size_t row) {
    wanted_.push_back({.row = row, .first = edge.first, .last = edge.last, .position = position});
  }
  std::span<const float> logits(std::size_t row) const {
    const auto width = static_cast<std::size_t>(width_);
    return std::span<const float>(logits_).subspan(row * width, width);
  }
  /// In threads, since sums over a large vocabulary take longer than a small model.
  void score() {
    constexpr std::size_t logits_per_thread = 1 << 16;
    const std::size_t enough =
        wanted_.size() * static_cast<std::size_t>(width_) / logits_per_thread + 1;
    const std::size_t threads = std::min(threads_, enough);
    const auto measure_every = [&](std::size_t first) {
      for (std::size_t i = first; i < wanted_.size(); i += threads) {
        const std::span<const float> row = logits(wanted_[i].row);
        wanted_[i].total = log_sum(row);
        wanted_[i].likeliest =
            static_cast<Token>(std::max_element(row.begin(), row.end()) - row.begin());
      }
    };
    {
      std::vector<std::jthread> others;
      for (std::size_t i = 1; i < threads; ++i) others.emplace_back(measure_every, i);
      measure_every(0);
    }
    for (const Wanted& wanted : wanted_)
      for (std::size_t i = wanted.first; i < wanted.last; ++i) add(wanted, order_[i]);
    wanted_.clear();
  }
  /// ln p(token) = logit − ln Σ exp(logits), over all rows of the head
  void add(const Wanted& wanted, std::size_t request) {
    if (wanted.position < first_scored(request) || wanted.position >= length(request)) return;
    const std::size_t at = wanted.position - first_scored(request);
    const Token target = requests_[request].continuation[at];
    ContinuationScore& score = scores_[request];
    score.log_probability += logits(wanted.row)[static_cast<std::size_t>(target)] - wanted.total;
    score.is_greedy = score.is_greedy && target == wanted.likeliest;
    ++score.tokens;
    if (wanted.position + 1 == length(request)) ++done_;
  }

  static constexpr std::size_t context_chunk = 2048;  // positions read at once bound the workspace

  const AnyLanguageModel& model_;
  const std::vector<ContinuationRequest>& requests_;
  const ContinuationOptions& options_;
  Index width_;
  Index positions_ = 1;
  std::size_t batch_ = 1;
  std::size_t threads_;
  std::vector<ContinuationScore> scores_;
  std::vector<std::size_t> order_;  // the requests by their tokens
  std::vector<Edge> edges_;         // that can be read, the latest at the end
  std::vector<float> logits_;
  std::vector<Wanted> wanted_;
  Index done_ = 0;
  Index tokens_ = 0;
};

}  // namespace detail

/// How likely texts are behind others, the log-probabilities behind every choice of a model. What
/// requests have in common at their beginning is read once, however many there are: each goes on
/// from a copy of the state.
///   const auto scores = score_continuations(model, {{prompt, yes}, {prompt, no}});
/// Probabilities are over all rows of the head, padding included; the sums are in double, on the
/// host.
/// read    becomes how many tokens the model read
/// Returns one for each request, in their order
/// Cost    a pass over the tokens that are not shared; a copy of the state wherever texts part;
///         memory for `positions` rows of logits and for about as many states as `batch` times the
///         places at which one text parts from others
/// Throws  ArgumentError  for an empty context or continuation, tokens that the model does not
///                        have, more tokens than it has learned positions
inline std::vector<ContinuationScore> score_continuations(
    const AnyLanguageModel& model, const std::vector<ContinuationRequest>& requests,
    const ContinuationOptions& options = {}, Index* read = nullptr) {
  detail::ContinuationScorer scorer(model, requests, options);
  std::vector<ContinuationScore> scores = scorer.run();
  if (read != nullptr) *read = scorer.tokens_read();
  return scores;
}

}  // namespace ssm
