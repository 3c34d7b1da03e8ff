// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ssm/core/segments.hpp"
#include "ssm/core/weight.hpp"
#include "ssm/model/generate.hpp"  // GenerateOptions
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_loss.hpp"

namespace ssm {

/// Which backend a model runs on, chosen at run time.
struct BackendOptions {
  std::string backend = "cpu";  // or "reference", "cuda", "cuda-tf32"
  int threads = 0;              // of the cpu backend; 0: as many as the process may use
  int device = 0;               // of the cuda backends
  // Of a model that is opened:
  /// What its sequences are kept in: "float", or on the cuda backends "bf16", weights with them. A
  /// model in bf16 is there to be read from: it is neither trained nor saved.
  std::string numbers = "float";
  WeightForm weights = WeightForm::full;  // what weight matrices are kept in, from the beginning
  /// Tensors that the files hold as they are wanted stay in the files, mapped into memory: nothing
  /// is copied, and processes share them. FileMapping says what must not happen to the files then.
  bool map_files = true;
};

/// What is known of a language model whatever it is made of.
struct LanguageModelFacts {
  std::string family;             // "dense-mamba"
  std::string backend;            // as in BackendOptions
  bool on_device = false;         // whether weights and states lie where the host does not read
  std::string numbers = "float";  // likewise
  int threads = 1;                // that work on one call
  Index vocabulary = 0;           // tokens that may occur
  Index padded_vocabulary = 0;    // logits of a position
  std::vector<Token> end_tokens;  // behind which a text is at its end: eos_token_id of config.json
  Index positions = 0;            // learned ones, beyond which there are none; 0: no limit
  bool has_attention = false;     // then state and time per token grow with the text
  Index parameters = 0;           // scalars that were learned
  std::size_t weight_bytes = 0;   // that these take, in the form that weights are kept in
  bool has_own_rates = false;     // some learn at the rate of SSM dynamics
};

namespace detail {

/// What a language model remembers of the tokens it has read. What AnyLanguageModel hides behind
/// LanguageModelState.
class StateInterface {
 public:
  StateInterface() = default;
  StateInterface(const StateInterface&) = delete;
  StateInterface& operator=(const StateInterface&) = delete;
  virtual ~StateInterface() = default;

  virtual Index sequences() const = 0;
  virtual Index position(Index sequence) const = 0;
  virtual std::unique_ptr<StateInterface> copy() const = 0;
  virtual std::unique_ptr<StateInterface> row(Index sequence) const = 0;
  virtual void copy_row(Index from, StateInterface& to, Index row) const = 0;
  virtual std::size_t bytes() const = 0;
  /// `tokens` is what was read and what is about to be, for who keeps it beside the state.
  virtual void save(const std::filesystem::path& file, std::span<const Token> tokens) const = 0;
  /// Returns the tokens.
  virtual std::vector<Token> load(const std::filesystem::path& file) = 0;
};

/// Tokens one by one.
class TokenStream {
 public:
  TokenStream() = default;
  TokenStream(const TokenStream&) = delete;
  TokenStream& operator=(const TokenStream&) = delete;
  virtual ~TokenStream() = default;

  virtual std::optional<Token> next() = 0;
};

/// A language model of any family on any backend; the code of each is compiled once, behind this.
/// Tensors are in host memory.
class LanguageModelInterface {
 public:
  LanguageModelInterface() = default;
  LanguageModelInterface(const LanguageModelInterface&) = delete;
  LanguageModelInterface& operator=(const LanguageModelInterface&) = delete;
  virtual ~LanguageModelInterface() = default;

  virtual const LanguageModelFacts& facts() const = 0;
  virtual std::string config_json() const = 0;
  virtual std::optional<std::string> changed_option(
      const std::map<std::string, std::string>& options) const = 0;
  virtual std::unique_ptr<LanguageModelInterface> session(const BackendOptions& options) = 0;

  virtual std::unique_ptr<StateInterface> initial_state(Index sequences) = 0;
  virtual void logits(const View<const Token, 2>& tokens, const View<float, 3>& logits) = 0;
  virtual void prefill(const View<const Token, 2>& tokens, const View<float, 3>& logits,
                       StateInterface& state) = 0;
  virtual void step(const View<const Token, 1>& tokens, const View<float, 2>& logits,
                    StateInterface& state) = 0;
  /// A step, and the likeliest of the first `vocabulary` tokens of each sequence, the lowest among
  /// equals; logits stay where they are.
  virtual void step_likeliest(const View<const Token, 1>& tokens, Index vocabulary,
                              const View<Token, 1>& next, StateInterface& state) = 0;
  /// Sequences of different lengths, one behind the other; logits of the last position of each that
  /// is not empty.
  virtual void prefill_packed(std::span<const Token> tokens, Segments segments,
                              const View<float, 2>& logits, StateInterface& state) = 0;
  /// A token from logits [padded vocabulary]; the same number of the same stream as `generate`'s.
  virtual Token draw(std::span<const float> logits, const Sampling& sampling, Seed seed,
                     std::uint64_t counter) = 0;
  virtual std::string fingerprint() = 0;
  virtual std::unique_ptr<TokenStream> generate(std::span<const Token> prompt,
                                                const GenerateOptions& options,
                                                StateInterface* state) = 0;
  virtual TextLoss loss(TokenView text, const TextLossOptions& options) = 0;
  virtual void keep_weights_in(WeightForm form) = 0;

  virtual void start_training(const LanguageModelTrainerConfig& config,
                              const std::string& numbers) = 0;
  virtual bool is_training() const = 0;
  virtual TrainingStep update(const TextWindows& windows, double rate,
                              std::span<double> beside) = 0;
  virtual Index updates() const = 0;
  virtual void save(const std::filesystem::path& folder) const = 0;
  virtual void load_training(const std::filesystem::path& folder) = 0;
};

}  // namespace detail
}  // namespace ssm
