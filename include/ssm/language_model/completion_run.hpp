// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/io/stop_strings.hpp"
#include "ssm/language_model/completion_options.hpp"
#include "ssm/language_model/transcript.hpp"

namespace ssm::detail {

/// One text on its way: what is drawn, counted, and told.
struct CompletionRow {
  Index request = 0;
  Index continuation = 0;
  const CompletionOptions* options = nullptr;
  const std::vector<Token>* end_tokens = nullptr;
  Seed seed{};
  TokenCounts counts{};
  TokenText text{};
  StopStrings stop{{}};
  Index position = 0;      // tokens that the state has read
  std::size_t logits = 0;  // which row of them is this one's
  bool is_finished = false;
  std::optional<Token> next{};  // drawn with the step
  Completion result{};
  std::vector<TokenProbability> likeliest{};
};

/// One call of `complete`.
class CompletionRun {
 public:
  using Visit = std::function<bool(const CompletionPiece&)>;

  CompletionRun(const AnyLanguageModel& model, const std::vector<CompletionRequest>& requests,
                const Visit& visit, const TokenTextMaker& text)
      : model_(model),
        requests_(requests),
        visit_(visit),
        vocabulary_(static_cast<std::size_t>(model.facts().vocabulary)),
        width_(static_cast<std::size_t>(model.facts().padded_vocabulary)) {
    require_transcripts();
    find_tokenizer();
    for (std::size_t r = 0; r < requests.size(); ++r) begin(static_cast<Index>(r), text);
  }

  std::vector<Completion> run() {
    std::vector<Completion> results;
    if (rows_.empty()) return results;
    read_prompts();
    fork();
    draw_all();
    while (step()) draw_all();
    update_transcripts();
    for (CompletionRow& row : rows_) results.push_back(std::move(row.result));
    return results;
  }

 private:
  /// Positions read at once bound the workspace. A device reads few long pieces sooner than many
  /// short ones, and has to be kept busy.
  static constexpr Index prompt_chunk = 1024, device_prompt_chunk = 16384;

  [[noreturn]] static void refuse(const std::string& what) {
    throw ArgumentError("complete: " + what);
  }

  void require_transcripts() const {
    std::set<const Transcript*> seen;
    for (const CompletionRequest& request : requests_) {
      if (request.transcript == nullptr) continue;
      if (request.transcript->fingerprint_ != model_.fingerprint())
        refuse("a transcript is of another model");
      if (!seen.insert(request.transcript).second) refuse("two requests have one transcript");
    }
  }

  /// Checks a request and makes its rows.
  void begin(Index index, const TokenTextMaker& text) {
    const CompletionRequest& request = requests_[static_cast<std::size_t>(index)];
    const CompletionOptions& options = request.options;
    std::vector<Token> all;
    if (request.transcript != nullptr) all = request.transcript->tokens();
    all.insert(all.end(), request.prompt.begin(), request.prompt.end());
    if (all.empty()) refuse("the prompt is empty, a model begins with at least one token");
    for (const Token token : all) require_token(token, "of the prompt");
    const Index positions = model_.facts().positions;
    if (positions > 0 && static_cast<Index>(all.size()) > positions)
      refuse(message(
          {"a prompt of ", all.size(), " tokens is beyond the ", positions, " learned positions"}));
    options.weights.require(static_cast<Index>(vocabulary_));
    if (!(options.typical_p > 0 && options.typical_p <= 1)) refuse("typical_p must be in (0, 1]");
    if (options.continuations < 1) refuse("there must be at least one continuation");
    if (options.tokens < 0 && options.tokens != dyn) refuse("tokens must not be negative");
    if (options.likeliest && *options.likeliest < 0) refuse("likeliest must not be negative");
    const std::vector<Token>* end_tokens = &model_.facts().end_tokens;
    if (options.end_tokens) {
      for (const Token token : *options.end_tokens) require_token(token, "that ends the text");
      end_tokens = &*options.end_tokens;
    }
    TokenCounts counts{.in_text = std::vector<bool>(vocabulary_, false), .drawn = {}};
    for (const Token token : all) counts.read(token);
    for (Index i = 0; i < options.continuations; ++i) {
      CompletionRow& row = rows_.emplace_back();
      row.request = index;
      row.continuation = i;
      row.options = &options;
      row.end_tokens = end_tokens;
      row.seed = Seed{options.seed.value + static_cast<std::uint64_t>(i)};
      row.counts = counts;
      row.text = text_of(text, !options.stop.empty());
      row.stop = StopStrings(options.stop);
      row.is_finished = options.tokens == 0;
    }
  }
  void require_token(Token token, const char* what) const {
    if (token < 0 || static_cast<std::size_t>(token) >= vocabulary_)
      refuse(message({"token ", token, " ", what, " is outside the vocabulary of ", vocabulary_}));
  }
  /// A vocabulary may be without a tokenizer; then tokens stay tokens.
  void find_tokenizer() {
    drawn_vocabulary_ = vocabulary_;
    try {
      tokenizer_ = model_.tokenizer();
      const auto known = static_cast<std::size_t>(tokenizer_->vocabulary());
      drawn_vocabulary_ = std::min(vocabulary_, known);
    } catch (const ArgumentError& error) {
      no_tokenizer_ = error.what();
    }
  }
  TokenText text_of(const TokenTextMaker& given, bool is_needed) const {
    if (given) return given();
    if (tokenizer_) return text_by(*tokenizer_)();
    if (is_needed) refuse("stop strings need a tokenizer: " + no_tokenizer_);
    return {.push = [](Token) { return std::string(); }, .finish = [] { return std::string(); }};
  }

  /// A row of state for each request: its transcript's, and what it has not read of its tokens.
  void read_prompts() {
    const auto count = static_cast<Index>(requests_.size());
    state_.emplace(model_.initial_state(count));
    logits_.resize(requests_.size() * width_);
    std::vector<std::vector<Token>> unread(requests_.size());
    for (std::size_t r = 0; r < requests_.size(); ++r) {
      const CompletionRequest& request = requests_[r];
      std::vector<Token>& tokens = unread[r];
      if (Transcript* transcript = request.transcript; transcript != nullptr) {
        if (request.prompt.empty()) transcript->leave_unread(1);
        const auto begin = transcript->tokens().begin() + transcript->read();
        tokens.assign(begin, transcript->tokens().end());
        if (transcript->read() > 0) transcript->state_.copy_row(0, *state_, static_cast<Index>(r));
      }
      tokens.insert(tokens.end(), request.prompt.begin(), request.prompt.end());
      if (request.options.tokens == 0) tokens.pop_back();  // the next call begins with it
    }
    read(unread);
  }

  bool is_on_device() const { return model_.facts().on_device; }
  /// On a device, prompts that are equally long, unless they are very many: some positions of all
  /// of them at a time. Whether it did.
  bool read_even(const std::vector<std::vector<Token>>& unread) {
    constexpr std::size_t least = 64;  // positions
    const std::size_t count = unread.size(), length = unread.front().size();
    const std::size_t share = static_cast<std::size_t>(device_prompt_chunk) / count;
    const auto is_even = [&](const std::vector<Token>& tokens) { return tokens.size() == length; };
    if (!is_on_device() || share < least || !std::all_of(unread.begin(), unread.end(), is_even))
      return false;
    const Index sequences = static_cast<Index>(count);
    std::vector<Token> tokens;
    for (std::size_t done = 0; done < length; done += std::min(share, length - done)) {
      const std::size_t some = std::min(share, length - done);
      tokens.clear();
      for (const std::vector<Token>& all : unread) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(done);
        tokens.insert(tokens.end(), begin, begin + static_cast<std::ptrdiff_t>(some));
      }
      model_.prefill({tokens.data(), {sequences, static_cast<Index>(some)}},
                     {logits_.data(), {sequences, Index{1}, static_cast<Index>(width_)}}, *state_);
    }
    return true;
  }
  /// Chunk by chunk, every chunk shared among the prompts that are not at their end; on a device
  /// taken by the first of them that fill it.
  void read(const std::vector<std::vector<Token>>& unread) {
    if (read_even(unread)) return;
    std::vector<std::size_t> done(unread.size(), 0);
    std::vector<Token> tokens;
    std::vector<Index> segments;
    std::vector<float> logits;
    while (true) {
      Index waiting = 0;
      for (std::size_t r = 0; r < unread.size(); ++r) waiting += done[r] < unread[r].size() ? 1 : 0;
      if (waiting == 0) return;
      const bool is_device = is_on_device();
      const auto share = static_cast<std::size_t>(
          is_device ? device_prompt_chunk : std::max<Index>(1, prompt_chunk / waiting));
      tokens.clear();
      segments.assign(1, 0);
      std::vector<std::size_t> chunk_rows;
      for (std::size_t r = 0; r < unread.size(); ++r) {
        std::size_t count = std::min(share, unread[r].size() - done[r]);
        if (is_device) count = std::min(count, share - tokens.size());
        const auto begin = unread[r].begin() + static_cast<std::ptrdiff_t>(done[r]);
        tokens.insert(tokens.end(), begin, begin + static_cast<std::ptrdiff_t>(count));
        segments.push_back(static_cast<Index>(tokens.size()));
        done[r] += count;
        if (count > 0) chunk_rows.push_back(r);
      }
      logits.resize(chunk_rows.size() * width_);
      model_.prefill(tokens, segments, rows_of(logits, chunk_rows.size()), *state_);
      for (std::size_t i = 0; i < chunk_rows.size(); ++i)
        std::copy_n(logits.data() + i * width_, width_, logits_.data() + chunk_rows[i] * width_);
    }
  }

  /// A row of state for each text.
  void fork() {
    for (CompletionRow& row : rows_) {
      row.logits = static_cast<std::size_t>(row.request);
      row.position = state_->position(row.request);
    }
    if (rows_.size() == requests_.size()) return;
    LanguageModelState all = model_.initial_state(static_cast<Index>(rows_.size()));
    for (std::size_t i = 0; i < rows_.size(); ++i)
      state_->copy_row(rows_[i].request, all, static_cast<Index>(i));
    state_.emplace(std::move(all));
  }

  void draw_all() {
    for (CompletionRow& row : rows_)
      if (!row.is_finished) draw(row);
  }
  void draw(CompletionRow& row) {
    const CompletionOptions& options = *row.options;
    if (row.next) return take(row, *std::exchange(row.next, {}), {});
    std::span<const float> logits(logits_.data() + row.logits * width_, width_);
    const std::span<const float> occurring = logits.first(vocabulary_);
    if (!options.weights.is_nothing() || options.typical_p < 1 || drawn_vocabulary_ < vocabulary_) {
      changed_.assign(logits.begin(), logits.end());
      std::fill(changed_.begin() + static_cast<std::ptrdiff_t>(drawn_vocabulary_),
                changed_.begin() + static_cast<std::ptrdiff_t>(vocabulary_),
                -std::numeric_limits<float>::infinity());
      apply(options.weights, row.counts, changed_);
      if (options.typical_p < 1 && options.temperature > 0)
        keep_typical(options.typical_p, options.temperature,
                     std::span(changed_).first(vocabulary_));
      logits = changed_;
    }
    const Token token = model_.interface().draw(logits,
                                                {.temperature = options.temperature,
                                                 .top_k = options.top_k,
                                                 .top_p = options.top_p,
                                                 .min_p = options.min_p},
                                                row.seed, row.result.tokens.size());
    take(row, token, occurring);
  }
  /// Whether nothing but the likeliest token is wanted of the logits.
  static bool wants_likeliest(const CompletionRow& row) {
    return !(row.options->temperature > 0) && row.options->weights.is_nothing() &&
           !row.options->likeliest;
  }

  /// A token that was drawn, of these logits.
  void take(CompletionRow& row, Token token, std::span<const float> logits) {
    if (std::find(row.end_tokens->begin(), row.end_tokens->end(), token) != row.end_tokens->end()) {
      end(row, CompletionEnd::end_token);
      tell(row, {}, finish_text(row));
      return;
    }
    CompletionPiece piece{.token = token};
    if (row.options->likeliest) measure(row, logits, token, piece);
    accept(row, token, piece);
  }

  void accept(CompletionRow& row, Token token, const CompletionPiece& piece) {
    row.result.tokens.push_back(token);
    row.counts.read(token);
    row.counts.drawn[token] += 1;
    std::string text = row.stop.push(row.text.push(token));
    const auto drawn = static_cast<Index>(row.result.tokens.size());
    if (row.stop.matched())
      end_at_stop(row);
    else if (row.options->tokens != dyn && drawn >= row.options->tokens)
      end(row, CompletionEnd::tokens);
    else if (model_.facts().positions > 0 && row.position >= model_.facts().positions)
      end(row, CompletionEnd::positions);
    if (row.is_finished) text += finish_text(row);
    if (!tell(row, piece, text) && !row.is_finished) {
      end(row, CompletionEnd::visitor);
      row.result.text += finish_text(row);
    }
  }
  static void end(CompletionRow& row, CompletionEnd end) {
    row.is_finished = true;
    row.result.end = end;
  }
  static void end_at_stop(CompletionRow& row) {
    end(row, CompletionEnd::stop_string);
    row.result.stop = row.options->stop[*row.stop.matched()];
  }
  /// What was held back, unless it completes a stop string.
  static std::string finish_text(CompletionRow& row) {
    const bool was_stopped = row.stop.matched().has_value();
    std::string text = row.stop.push(row.text.finish());
    text += row.stop.finish();
    if (!was_stopped && row.stop.matched()) end_at_stop(row);
    return text;
  }
  bool tell(CompletionRow& row, CompletionPiece piece, const std::string& text) {
    row.result.text += text;
    if (!visit_ || (!piece.token && text.empty())) return true;
    piece.request = row.request;
    piece.continuation = row.continuation;
    piece.text = text;
    return visit_(piece);
  }

  /// log p(token) = logit − log Σ exp(logits)
  void measure(CompletionRow& row, std::span<const float> logits, Token token,
               CompletionPiece& piece) {
    const double total = log_sum(logits);
    const auto of = [&](Token v) { return logits[static_cast<std::size_t>(v)] - total; };
    piece.log_probability = of(token);
    row.result.log_probabilities.push_back(piece.log_probability);
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), Token{0});
    const auto count = std::min<std::ptrdiff_t>(*row.options->likeliest,
                                                static_cast<std::ptrdiff_t>(order_.size()));
    std::partial_sort(order_.begin(), order_.begin() + count, order_.end(),
                      [&](Token v, Token w) { return of(v) > of(w) || (of(v) == of(w) && v < w); });
    row.likeliest.clear();
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const Token v = order_[static_cast<std::size_t>(i)];
      row.likeliest.push_back({.token = v, .log_probability = of(v)});
    }
    row.result.likeliest.push_back(row.likeliest);
    piece.likeliest = row.likeliest;
  }

  /// Reads the last token of every text that goes on; whether there is one.
  bool step() {
    tokens_.clear();
    segments_.assign(1, 0);
    for (CompletionRow& row : rows_) {
      if (!row.is_finished) {
        row.logits = tokens_.size();
        tokens_.push_back(row.result.tokens.back());
        ++row.position;
      }
      segments_.push_back(static_cast<Index>(tokens_.size()));
    }
    if (tokens_.empty()) return false;
    const auto is_simple = [](const CompletionRow& row) {
      return !row.is_finished && wants_likeliest(row);
    };
    if (std::all_of(rows_.begin(), rows_.end(), is_simple)) {
      next_.resize(tokens_.size());
      const DynamicExtents<1> extents(static_cast<Index>(tokens_.size()));
      model_.interface().step_likeliest({tokens_.data(), extents},
                                        static_cast<Index>(drawn_vocabulary_),
                                        {next_.data(), extents}, state_->interface());
      for (std::size_t i = 0; i < rows_.size(); ++i) rows_[i].next = next_[i];
      return true;
    }
    logits_.resize(std::max(logits_.size(), tokens_.size() * width_));
    const View<float, 2> logits = rows_of(logits_, tokens_.size());
    if (tokens_.size() == rows_.size())
      model_.step({tokens_.data(), {static_cast<Index>(tokens_.size())}}, logits, *state_);
    else
      model_.prefill(tokens_, segments_, logits, *state_);
    return true;
  }

  void update_transcripts() {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const CompletionRow& row = rows_[i];
      const CompletionRequest& request = requests_[static_cast<std::size_t>(row.request)];
      if (request.transcript == nullptr || row.continuation > 0) continue;
      if (row.options->continuations > 1) {
        request.transcript->append(request.prompt);
        continue;
      }
      std::vector<Token> tokens = request.prompt;
      tokens.insert(tokens.end(), row.result.tokens.begin(), row.result.tokens.end());
      request.transcript->advance(state_->row(static_cast<Index>(i)), tokens);
    }
  }

  View<float, 2> rows_of(std::vector<float>& logits, std::size_t rows) const {
    return {logits.data(), {static_cast<Index>(rows), static_cast<Index>(width_)}};
  }

  const AnyLanguageModel& model_;
  const std::vector<CompletionRequest>& requests_;
  const Visit& visit_;
  std::size_t vocabulary_;
  std::size_t drawn_vocabulary_ = 0;  // of which the tokenizer has a text
  std::optional<Tokenizer> tokenizer_{};
  std::string no_tokenizer_;  // why there is none
  std::size_t width_;         // of a row of logits
  std::vector<CompletionRow> rows_;
  std::optional<LanguageModelState> state_;
  std::vector<float> logits_;   // one row for each that goes on
  std::vector<float> changed_;  // those of one row
  std::vector<Token> order_;
  std::vector<Token> tokens_, next_;
  std::vector<Index> segments_;
};

}  // namespace ssm::detail
