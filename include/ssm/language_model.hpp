// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/tokenizer.hpp"
#include "ssm/language_model/interface.hpp"
#include "ssm/train/evaluation.hpp"
#include "ssm/train/shuffled_windows.hpp"
#include "ssm/train/text_streams.hpp"

namespace ssm {

/// What a language model remembers of the tokens it has read: the past of one or several sequences
/// side by side. Belongs to the model that made it and to the sessions of that model.
/// Throws  ArgumentError  for a state of another kind of model, a sequence that is not there, or
///                        sequences that do not fit
class LanguageModelState {
 public:
  explicit LanguageModelState(std::unique_ptr<detail::StateInterface> state)
      : state_(std::move(state)) {}

  Index sequences() const { return state_->sequences(); }
  /// How many tokens a sequence has read.
  Index position(Index sequence = 0) const { return state_->position(sequence); }

  LanguageModelState copy() const { return LanguageModelState(state_->copy()); }
  /// One of the sequences as a state of its own.
  LanguageModelState row(Index sequence) const { return LanguageModelState(state_->row(sequence)); }
  /// Replaces one sequence of another state by one of this, so that sequences join and leave a
  /// batch.
  void copy_row(Index from, LanguageModelState& to, Index row) const {
    state_->copy_row(from, *to.state_, row);
  }
  /// The memory that it takes: the same after any number of tokens, but where there is attention.
  std::size_t bytes() const { return state_->bytes(); }

  /// One safetensors file, which names the weights by their fingerprint. Throws CheckpointError.
  void save(const std::filesystem::path& file) const { state_->save(file, {}); }
  /// Throws CheckpointError  for a damaged file or one of another model; the state stays as it was
  void load(const std::filesystem::path& file) { state_->load(file); }

  detail::StateInterface& interface() const { return *state_; }

 private:
  std::unique_ptr<detail::StateInterface> state_;
};

/// The tokens that follow a prompt, an input range that runs the model as it is read. The model
/// must outlive it.
class GeneratedTokens {
 public:
  /// Reads the tokens once, in order; each step runs the model.
  class Iterator {
   public:
    using value_type = Token;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit Iterator(GeneratedTokens* owner) : owner_(owner) {}
    Token operator*() const { return *owner_->token_; }
    Iterator& operator++() {
      owner_->token_ = owner_->stream_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !owner_->token_; }

   private:
    GeneratedTokens* owner_;
  };

  explicit GeneratedTokens(std::unique_ptr<detail::TokenStream> stream)
      : stream_(std::move(stream)) {}
  Iterator begin() {
    token_ = stream_->next();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  std::unique_ptr<detail::TokenStream> stream_;
  std::optional<Token> token_;
};

/// The text that follows a prompt in pieces of whole characters, an input range that runs the model
/// as it is read.
class GeneratedText {
 public:
  /// Reads the pieces once, in order; each step runs the model until a piece is whole.
  class Iterator {
   public:
    using value_type = std::string;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit Iterator(GeneratedText* owner) : owner_(owner) {}
    const std::string& operator*() const { return owner_->piece_; }
    Iterator& operator++() {
      owner_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return owner_->is_finished_; }

   private:
    GeneratedText* owner_;
  };

  GeneratedText(std::unique_ptr<detail::TokenStream> stream, Tokenizer tokenizer)
      : stream_(std::move(stream)), text_(std::move(tokenizer), TextPlace::continuation) {}
  Iterator begin() {
    advance();
    return Iterator(this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  void advance() {
    piece_.clear();
    while (piece_.empty() && !is_ended_) {
      const std::optional<Token> token = stream_->next();
      is_ended_ = !token;
      piece_ = token ? text_.push(*token) : text_.finish();
    }
    is_finished_ = piece_.empty();
  }

  std::unique_ptr<detail::TokenStream> stream_;
  Detokenizer<Tokenizer> text_;
  std::string piece_;
  bool is_ended_ = false;
  bool is_finished_ = false;
};

/// A language model with its weights, of whichever family, on a backend chosen at run time.
///   auto model = ssm::open_language_model("run/", {.backend = "cpu", .threads = 2});
///   for (const std::string& text : model.generate("To be", {.temperature = 0.8, .tokens = 200}))
///     std::cout << text << std::flush;
/// Tensors that go in and out are in host memory, whatever the backend. One object is for one
/// thread at a time; `session` makes others over the same weights.
/// Throws  ArgumentError, ShapeError  for operands that do not fit the model
class AnyLanguageModel {
 public:
  explicit AnyLanguageModel(std::unique_ptr<detail::LanguageModelInterface> model)
      : model_(std::move(model)) {}

  const LanguageModelFacts& facts() const { return model_->facts(); }
  /// What tells these weights from others, whatever backend they are on and also when they were
  /// rounded: 16 hexadecimal digits. Files of states name it.
  std::string fingerprint() const { return model_->fingerprint(); }
  /// The config.json that `save` writes.
  std::string config_json() const { return model_->config_json(); }
  /// The first of some options that the model would have to be another one for, see
  /// FreshLanguageModel.
  std::optional<std::string> changed_option(
      const std::map<std::string, std::string>& options) const {
    return model_->changed_option(options);
  }

  /// Another object over the same weights, with threads and workspace of its own, for another
  /// thread. While there are several, weights cannot change: no training, no rounding.
  AnyLanguageModel session(int threads = 1) const {
    AnyLanguageModel other(model_->session({.backend = facts().backend, .threads = threads}));
    other.tokenizer_ = tokenizer_;
    other.find_tokenizer_ = find_tokenizer_;
    return other;
  }
  /// Rounds weights for inference: bf16 takes half the memory, int8 a quarter. No training
  /// afterwards.
  /// Throws  ArgumentError  while sessions share them, or where the form cannot hold a number
  void keep_weights_in(WeightForm form) { model_->keep_weights_in(form); }

  // Inference.

  /// What has read nothing yet.
  LanguageModelState initial_state(Index sequences = 1) const {
    return LanguageModelState(model_->initial_state(sequences));
  }
  /// At every position, what the model expects next, each sequence from an empty state.
  /// tokens [B, L]    logits [B, L, padded vocabulary] or [B, 1, padded vocabulary] for the last
  ///                  position alone
  void logits(const View<const Token, 2>& tokens, const View<float, 3>& logits) const {
    model_->logits(tokens, logits);
  }
  /// The same of one sequence: [L, padded vocabulary].
  DynamicTensor<float, 2> logits(std::span<const Token> tokens) const {
    const auto length = static_cast<Index>(tokens.size());
    DynamicTensor<float, 2> result({length, facts().padded_vocabulary});
    model_->logits({tokens.data(), {1, length}}, {result.data(), {1, length, result.extent(1)}});
    return result;
  }
  /// Reads a chunk of any length from a state on, and advances the state.
  /// tokens [B, L]    logits [B, L, padded vocabulary] or [B, 1, padded vocabulary] for the last
  ///                  position alone
  void prefill(const View<const Token, 2>& tokens, const View<float, 3>& logits,
               LanguageModelState& state) const {
    model_->prefill(tokens, logits, state.interface());
  }
  /// The same of one sequence: what is expected after its last token, [padded vocabulary].
  DynamicTensor<float, 1> prefill(std::span<const Token> tokens, LanguageModelState& state) const {
    DynamicTensor<float, 1> result({facts().padded_vocabulary});
    model_->prefill({tokens.data(), {1, static_cast<Index>(tokens.size())}},
                    {result.data(), {1, 1, result.extent(0)}}, state.interface());
    return result;
  }
  /// Reads a chunk of each sequence of the state, of different lengths, from where it is,
  /// and advances each by its own: none is padded.
  /// tokens [L]      all chunks, one behind the other
  /// segments [S+1]  chunk s is tokens segments[s] … segments[s+1]−1; where it is empty, the
  ///                 sequence stays as it was
  /// logits [C, padded vocabulary]   after the last token of each of the C chunks that are not
  ///                                 empty
  void prefill(std::span<const Token> tokens, Segments segments, const View<float, 2>& logits,
               LanguageModelState& state) const {
    model_->prefill_packed(tokens, segments, logits, state.interface());
  }
  /// The same of prompts by themselves, none of them empty: [S, padded vocabulary].
  DynamicTensor<float, 2> prefill(const std::vector<std::vector<Token>>& prompts,
                                  LanguageModelState& state) const {
    std::vector<Token> tokens;
    std::vector<Index> segments{0};
    for (const std::vector<Token>& prompt : prompts) {
      tokens.insert(tokens.end(), prompt.begin(), prompt.end());
      segments.push_back(static_cast<Index>(tokens.size()));
      if (prompt.empty()) throw ArgumentError("language model: a prompt is empty");
    }
    DynamicTensor<float, 2> logits({static_cast<Index>(prompts.size()), facts().padded_vocabulary});
    model_->prefill_packed(tokens, segments, logits, state.interface());
    return logits;
  }
  /// Reads one token of each sequence, and advances the state.
  /// tokens [B]    logits [B, padded vocabulary]
  void step(const View<const Token, 1>& tokens, const View<float, 2>& logits,
            LanguageModelState& state) const {
    model_->step(tokens, logits, state.interface());
  }

  /// Continues a prompt, token by token.
  GeneratedTokens generate(std::span<const Token> prompt,
                           const GenerateOptions& options = {}) const {
    return GeneratedTokens(model_->generate(prompt, options, nullptr));
  }
  /// The same from a state on, which has read all that was handed out when the range is at its end
  /// or left.
  GeneratedTokens generate(std::span<const Token> prompt, const GenerateOptions& options,
                           LanguageModelState& state) const {
    return GeneratedTokens(model_->generate(prompt, options, &state.interface()));
  }
  /// Calls visit(token) for each token, until the tokens end or it says false.
  void generate(std::span<const Token> prompt, const GenerateOptions& options,
                const std::function<bool(Token)>& visit) const {
    for (const Token token : generate(prompt, options))
      if (!visit(token)) return;
  }
  /// Continues a text, by pieces of whole characters. Tokens that the tokenizer does not have are
  /// never drawn.
  /// Throws  ArgumentError  as `tokenizer` and `encode`
  GeneratedText generate(std::string_view prompt, const GenerateOptions& options = {}) const {
    const auto tokens = encode(prompt);
    return {model_->generate(tokens, known(options), nullptr), tokenizer()};
  }
  GeneratedText generate(std::string_view prompt, const GenerateOptions& options,
                         LanguageModelState& state) const {
    const auto tokens = encode(prompt);
    return {model_->generate(tokens, known(options), &state.interface()), tokenizer()};
  }

  /// How text becomes tokens: what `use_tokenizer` was given; or else, for a model that
  /// open_language_model opened, what its folder has, read when it is first asked for; or else
  /// bytes.
  /// Throws  ArgumentError    if there is none and the vocabulary is not that of bytes;
  ///         CheckpointError  as open_tokenizer
  Tokenizer tokenizer() const {
    if (!tokenizer_) {
      std::optional<Tokenizer> found = find_tokenizer_ ? find_tokenizer_() : std::nullopt;
      if (!found && facts().vocabulary != ByteTokenizer::vocabulary())
        throw ArgumentError("the model has a vocabulary of " + std::to_string(facts().vocabulary) +
                            " tokens, bytes have " + std::to_string(ByteTokenizer::vocabulary()) +
                            ", and no tokenizer is with it");
      tokenizer_ = found ? *std::move(found) : Tokenizer();
    }
    return *tokenizer_;
  }
  void use_tokenizer(Tokenizer tokenizer) { tokenizer_ = std::move(tokenizer); }
  /// The same when it is first needed; nothing where there is none.
  void use_tokenizer(std::function<std::optional<Tokenizer>()> find) {
    tokenizer_.reset();
    find_tokenizer_ = std::move(find);
  }
  /// The tokens of a text.
  /// Throws  ArgumentError  for a token that the model does not have; as `tokenizer`
  std::vector<Token> encode(std::string_view text) const {
    std::vector<Token> tokens = tokenizer().encode(text);
    require_known(tokens);
    return tokens;
  }
  /// Throws  ArgumentError  for a token that the model does not have
  void require_known(std::span<const Token> tokens) const {
    for (const Token token : tokens)
      if (token < 0 || token >= facts().vocabulary)
        throw ArgumentError("the tokenizer has token " + std::to_string(token) +
                            ", the model knows 0 to " + std::to_string(facts().vocabulary - 1));
  }
  /// The same options, with tokens that the tokenizer does not have never drawn.
  GenerateOptions known(GenerateOptions options) const {
    if (options.vocabulary == dyn) options.vocabulary = tokenizer().vocabulary();
    return options;
  }

  // Evaluation.

  /// How well the model predicts a text that it reads from beginning to end.
  TextLoss loss(TokenView text, const TextLossOptions& options = {}) const {
    return model_->loss(text, options);
  }
  /// The same by the protocol of `evaluation_context`: a model with attention starts afresh every
  /// 1024 tokens, one with learned positions before they end.
  TextLoss evaluate(TokenView text, std::optional<Index> context = std::nullopt) const {
    return loss(text,
                {.context = evaluation_context(facts().has_attention, facts().positions, context)});
  }

  // Training.

  /// `numbers` is what sequences and working copies of the matrices are kept in meanwhile: "float",
  /// or in mixed precision "bf16" or "f16"; what is trained and saved stays in float.
  /// Throws  ArgumentError  for numbers that the backend does not train in, and settings outside
  ///                        their range
  void start_training(const LanguageModelTrainerConfig& config,
                      const std::string& numbers = "float") {
    model_->start_training(config, numbers);
  }
  bool is_training() const { return model_->is_training(); }
  /// beside   numbers that become their sums over the ranks; they go with the loss
  TrainingStep update(const TextWindows& windows, double rate, std::span<double> beside = {}) {
    return model_->update(windows, rate, beside);
  }
  /// Updates made so far, in this run and in those that it resumed.
  Index updates() const { return model_->updates(); }
  /// Writes config.json and model.safetensors into a folder, and while the model trains also
  /// optimizer.safetensors and, where state is carried, state.safetensors. Of ranks that train
  /// together each calls it, and the first writes. Throws CheckpointError.
  void save(const std::filesystem::path& folder) const { model_->save(folder); }
  /// Goes on where the model that was saved in a folder stopped; this one was opened from there.
  /// Throws  CheckpointError  if the files are damaged or of another model
  void resume_training(const std::filesystem::path& folder,
                       const LanguageModelTrainerConfig& config,
                       const std::string& numbers = "float") {
    model_->start_training(config, numbers);
    model_->load_training(folder);
  }

  detail::LanguageModelInterface& interface() const { return *model_; }

 private:
  std::unique_ptr<detail::LanguageModelInterface> model_;
  mutable std::optional<Tokenizer> tokenizer_;  // once it is known
  std::function<std::optional<Tokenizer>()> find_tokenizer_;
};

/// What a language model begins as.
struct FreshLanguageModel {
  std::string family = "h3";
  std::map<std::string, std::string> options = {};  // its sizes by name: {"width", "128"}
  Index vocabulary = 256;
  std::filesystem::path config = {};   // a config.json in place of all these,
  std::string preset = {};             // or the sizes of a published model: "mamba-130m"
  std::vector<Token> end_tokens = {};  // behind which a text is at its end; none: the config's
  Seed seed{};
};

// Compiled in the library ssm::language_model, for every family and every backend it was built
// with.

/// Opens a language model from a folder with config.json and weights, or from the newest checkpoint
/// of a training run.
/// Throws  CheckpointError  if a file is missing, damaged, or not what its config says;
///         ArgumentError    for a backend that is not there or that the family does not run on
AnyLanguageModel open_language_model(const std::filesystem::path& path,
                                     const BackendOptions& options = {});
/// Throws  ArgumentError  for an unknown family or sizes that do not fit; CheckpointError  for a
///                                                                                         config
///                                                                                         that
///                                                                                         does not
AnyLanguageModel fresh_language_model(const FreshLanguageModel& fresh,
                                      const BackendOptions& options = {});
/// As open_tokenizer (ssm/tokenizer/open.hpp), where ssm::tokenizer was there when the library was
/// built.
/// Throws  CheckpointError  as open_tokenizer; ArgumentError  where tokens can only be bytes
Tokenizer load_tokenizer(const std::filesystem::path& path);
/// The backends that were compiled in.
std::vector<std::string> language_model_backends();

}  // namespace ssm
