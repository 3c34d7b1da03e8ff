// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/transfer.hpp"
#include "ssm/io/state_checkpoint.hpp"
#include "ssm/language_model/interface.hpp"
#include "ssm/layer/copy_state_row.hpp"

namespace ssm::detail {

/// The state of a language model L on backend B with sequences in T. It keeps the context that it
/// was made with.
template <class L, class B, class T = float>
class StateOn final : public StateInterface {
  using Space = typename B::Space;
  using State = typename L::template State<T, Space>;
  using HostState = typename L::template State<T>;

 public:
  StateOn(std::shared_ptr<Context<B>> ctx, const L& layer, const LanguageModelFacts& facts,
          std::string fingerprint, Index sequences)
      : ctx_(std::move(ctx)),
        layer_(layer),
        family_(facts.family),
        fingerprint_(std::move(fingerprint)),
        sequences_(sequences),
        state_(fresh(sequences)) {
    if (sequences < 1) throw ArgumentError("language model: a state is of at least one sequence");
  }

  /// The state behind an interface.
  /// Throws  ArgumentError  if it is of another model, or of another number of sequences
  static StateOn& of(StateInterface& state, const LanguageModelFacts& facts, Index sequences) {
    auto* own = dynamic_cast<StateOn*>(&state);
    if (own == nullptr || own->family_ != facts.family)
      throw ArgumentError("language model: the state is of a model of another kind or backend");
    if (own->sequences_ != sequences)
      throw ArgumentError("language model: the state is of " + std::to_string(own->sequences_) +
                          " sequences, the tokens are of " + std::to_string(sequences));
    return *own;
  }

  State& state() { return state_; }
  Index sequences() const override { return sequences_; }
  Index position(Index sequence) const override {
    if (sequence < 0 || sequence >= sequences_)
      throw ArgumentError("language model: sequence " + std::to_string(sequence) +
                          " is not one of " + std::to_string(sequences_));
    return static_cast<Index>(state_.position(sequence));
  }

  std::unique_ptr<StateInterface> copy() const override {
    std::unique_ptr<StateOn> result(new StateOn(*this, sequences_));
    copy_state_between<L>(state_, result->state_);
    return result;
  }
  std::unique_ptr<StateInterface> row(Index sequence) const override {
    std::unique_ptr<StateOn> result(new StateOn(*this, 1));
    copy_row(sequence, *result, 0);
    return result;
  }
  void copy_row(Index from, StateInterface& to, Index row) const override {
    auto* other = dynamic_cast<StateOn*>(&to);
    if (other == nullptr || other->family_ != family_)
      throw ArgumentError("language model: the state is of a model of another kind or backend");
    copy_state_row(*ctx_, layer_, state_, from, other->state_, row);
  }

  std::size_t bytes() const override {
    std::size_t bytes = 0;
    L::for_each_state(
        [&](const std::string&, const auto& tensor) {
          bytes += static_cast<std::size_t>(tensor.size()) * sizeof(*tensor.data());
        },
        state_);
    return bytes;
  }

  void save(const std::filesystem::path& file, std::span<const Token> tokens) const override {
    SafetensorsWriter writer(file);
    writer.metadata("format", format);
    writer.metadata("family", family_);
    writer.metadata("model", fingerprint_);
    if (!tokens.empty())
      writer.add(std::string(tokens_name),
                 View<const Token, 1>(tokens.data(), {static_cast<Index>(tokens.size())}));
    if constexpr (Space::host_readable) {
      save_state<L>(writer, state_);
      writer.finish();
    } else {
      HostState on_host = fresh_on_host(sequences_);
      copy_state_between<L>(state_, on_host);
      save_state<L>(writer, on_host);
      writer.finish();
    }
  }
  std::vector<Token> load(const std::filesystem::path& path) override {
    const SafetensorsFile file(path);
    if (metadata(file, "format") != format)
      throw CheckpointError(path.string(), "", "is not the state of a language model");
    if (metadata(file, "family") != family_)
      throw CheckpointError(path.string(), "", "is of a model of another family");
    if (metadata(file, "model") != fingerprint_)
      throw CheckpointError(path.string(), "",
                            "is of another model: its weights are '" +
                                printable(metadata(file, "model")) + "', not '" + fingerprint_ +
                                "'");
    std::vector<Token> tokens = tokens_of(file);
    if constexpr (Space::host_readable) {
      State loaded = fresh(sequences_);
      load_state<L>(file, loaded);
      state_ = std::move(loaded);
    } else {
      HostState on_host = fresh_on_host(sequences_);
      load_state<L>(file, on_host);
      copy_state_between<L>(on_host, state_);
    }
    return tokens;
  }

 private:
  static constexpr const char* format = "ssm-state-1";
  static constexpr const char* tokens_name = "tokens";

  static std::string metadata(const SafetensorsFile& file, const std::string& key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? "" : found->second;
  }
  std::vector<Token> tokens_of(const SafetensorsFile& file) const {
    if (!file.contains(tokens_name)) return {};
    const std::vector<Index>& shape = file.shape(tokens_name);
    if (shape.size() != 1)
      throw CheckpointError(file.path_name(), tokens_name, "are not a list of tokens");
    DynamicTensor<Token, 1> tokens;
    file.template require_convertible<Token>(tokens_name);
    tokens.resize({shape[0]});
    file.read(tokens_name, tokens);
    for (Index i = 0; i < tokens.size(); ++i)
      if (tokens(i) < 0 || tokens(i) >= layer_.vocabulary())
        throw CheckpointError(file.path_name(), tokens_name,
                              "have " + std::to_string(tokens(i)) +
                                  ", which is outside the vocabulary of " +
                                  std::to_string(layer_.vocabulary()));
    return {tokens.data(), tokens.data() + tokens.size()};
  }

  StateOn(const StateOn& like, Index sequences)
      : ctx_(like.ctx_),
        layer_(like.layer_),
        family_(like.family_),
        fingerprint_(like.fingerprint_),
        sequences_(sequences),
        state_(fresh(sequences)) {}

  State fresh(Index sequences) const { return layer_.template initial_state<T>(*ctx_, sequences); }
  HostState fresh_on_host(Index sequences) const {
    return layer_.template initial_state<T>(Context<HostMemory>(), sequences);
  }

  std::shared_ptr<Context<B>> ctx_;
  L layer_;
  std::string family_;
  std::string fingerprint_;  // of the weights
  Index sequences_;
  State state_;
};

}  // namespace ssm::detail
