// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/language_model.hpp"

namespace ssm {

namespace detail {
class CompletionRun;
}

/// A text that a model reads and continues in turns: its tokens, the state behind most of them, and
/// some earlier states to go back to. `complete` reads and extends it.
///   ssm::Transcript chat(model);
///   ssm::complete(model, {{.prompt = question, .options = {.tokens = 100}, .transcript = &chat}});
///   chat.roll_back(20);              // the last 20 tokens have not been
///   chat.save("chat.safetensors");   // a prompt cache, or for tomorrow
/// The state of an SSM cannot be run backwards. Each `complete` leaves the state that it began with
/// behind as a snapshot, of which the latest few are kept, and what lies between a snapshot and
/// where the text was rolled back to is read again, in parallel, by the next `complete`.
/// Memory  1 + snapshots states and the tokens; with attention, a state grows with its text
/// One object is for one thread at a time; so is a model.
class Transcript {
 public:
  /// Nothing has been read yet.
  explicit Transcript(const AnyLanguageModel& model, std::size_t snapshots = 4)
      : fingerprint_(model.fingerprint()),
        fresh_(model.initial_state()),
        state_(fresh_.copy()),
        limit_(snapshots) {}

  /// All of the text.
  const std::vector<Token>& tokens() const { return tokens_; }
  /// How many of them the state has read; the next `complete` reads the others first.
  Index read() const { return state_.position(); }

  /// Puts tokens behind the text, to be read by the next `complete`.
  void append(std::span<const Token> tokens) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  /// Takes the last `count` tokens off the text.
  /// Cost    none if the state has not read them, else the copy of a state, and reading again what
  ///         follows the snapshot
  /// Throws  ArgumentError  if there are not as many
  void roll_back(Index count) {
    if (count < 0 || count > static_cast<Index>(tokens_.size()))
      throw ArgumentError(
          message({"transcript: cannot go back ", count, " of ", tokens_.size(), " tokens"}));
    tokens_.resize(tokens_.size() - static_cast<std::size_t>(count));
    leave_unread(0);
  }
  /// The same text once more, to be continued in another way.
  /// Cost    the copy of a state
  Transcript fork() const {
    Transcript copy(*this, state_.copy());
    for (const LanguageModelState& snapshot : snapshots_)
      copy.snapshots_.push_back(snapshot.copy());
    return copy;
  }

  /// Tokens and state as one safetensors file, which names the weights by their fingerprint; no
  /// snapshots. Throws CheckpointError.
  void save(const std::filesystem::path& file) const { state_.interface().save(file, tokens_); }
  /// Throws  CheckpointError  for a damaged file or one of other weights; nothing has changed then
  void load(const std::filesystem::path& file) {
    LanguageModelState state = fresh_.copy();
    std::vector<Token> tokens = state.interface().load(file);
    if (static_cast<Index>(tokens.size()) < state.position())
      throw CheckpointError(
          file.string(), "tokens",
          message({"are ", tokens.size(), ", but the state has read ", state.position()}));
    tokens_ = std::move(tokens);
    state_ = std::move(state);
    snapshots_.clear();
  }

 private:
  friend class detail::CompletionRun;

  Transcript(const Transcript& like, LanguageModelState state)
      : fingerprint_(like.fingerprint_),
        fresh_(like.fresh_.copy()),
        state_(std::move(state)),
        limit_(like.limit_),
        tokens_(like.tokens_) {}

  /// Goes back to where the state has not read the last `count` tokens.
  void leave_unread(std::size_t count) {
    const auto most = static_cast<Index>(tokens_.size() - std::min(count, tokens_.size()));
    if (state_.position() <= most) return;
    while (!snapshots_.empty() && snapshots_.back().position() > most) snapshots_.pop_back();
    state_ = snapshots_.empty() ? fresh_.copy() : snapshots_.back().copy();
  }
  /// The state goes on; what it was becomes a snapshot.
  void advance(LanguageModelState state, std::span<const Token> tokens) {
    append(tokens);
    LanguageModelState before = std::exchange(state_, std::move(state));
    if (before.position() == 0 || limit_ == 0 || before.position() >= state_.position()) return;
    if (!snapshots_.empty() && snapshots_.back().position() >= before.position()) return;
    if (snapshots_.size() == limit_) snapshots_.erase(snapshots_.begin());
    snapshots_.push_back(std::move(before));
  }

  std::string fingerprint_;
  LanguageModelState fresh_;
  LanguageModelState state_;
  std::size_t limit_;
  std::vector<LanguageModelState> snapshots_;  // each has read more than the one before
  std::vector<Token> tokens_;
};

}  // namespace ssm
