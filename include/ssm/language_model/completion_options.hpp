// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/random.hpp"  // Seed
#include "ssm/io/detokenizer.hpp"
#include "ssm/language_model/token_weights.hpp"
#include "ssm/op/sample.hpp"

namespace ssm {

class Transcript;

/// How a text is continued, and where it ends. The logits of a step go through `weights`, then the
/// temperature, typical_p, top-k, top-p and min-p, each off at its default.
struct CompletionOptions {
  TokenWeights weights = {};  // logit bias and penalties
  double temperature = 1;     // ≤ 0: always the likeliest token
  double typical_p = 1;
  Index top_k = 0;
  double top_p = 1;
  double min_p = 0;
  Seed seed{};  // continuation i draws with seed.value + i

  Index tokens = dyn;  // how many to draw; dyn: no end
  /// The text ends before any of these tokens; left out: the model's own, `facts().end_tokens`.
  std::optional<std::vector<Token>> end_tokens{};
  std::vector<std::string> stop = {};  // the text ends before any of these strings

  Index continuations = 1;  // of the one prompt
  /// Whether pieces tell log-probabilities, of what was drawn and of so many likeliest tokens:
  /// those of the model, before weights and temperature.
  std::optional<Index> likeliest{};
};

/// A prompt, and how it is continued.
struct CompletionRequest {
  std::vector<Token> prompt{};
  CompletionOptions options{};
  /// Comes before the prompt, and takes up the prompt and what follows it; with several
  /// continuations, the prompt alone. The prompt may then be empty.
  Transcript* transcript = nullptr;
};

struct TokenProbability {
  Token token = 0;
  double log_probability = 0;  // natural
};

/// What a step adds to one of the texts.
struct CompletionPiece {
  Index request = 0;
  Index continuation = 0;
  std::optional<Token> token{};  // none where the end of a text lets go of what was held back
  /// Whole characters. Empty while a character is incomplete or a stop string may have begun.
  std::string_view text{};
  double log_probability = std::numeric_limits<double>::quiet_NaN();  // if asked for
  std::span<const TokenProbability> likeliest{};                      // from the likeliest on
};

enum class CompletionEnd {
  tokens,       // as many as were asked for
  end_token,    // which is not among the tokens
  stop_string,  // which is not in the text; its tokens are among the tokens
  positions,    // the model has learned no more
  visitor,      // said no
};

struct Completion {
  std::vector<Token> tokens{};
  std::string text{};
  CompletionEnd end = CompletionEnd::tokens;
  std::optional<std::string> stop{};                       // the string that has ended it
  std::vector<double> log_probabilities{};                 // of each token, if asked for
  std::vector<std::vector<TokenProbability>> likeliest{};  // at each token, if asked for
};

/// Tokens of one text as characters while they come.
struct TokenText {
  std::function<std::string(Token)> push;
  std::function<std::string()> finish;
};
/// Begins the text of a sequence.
using TokenTextMaker = std::function<TokenText()>;

/// The text of any tokenizer that a Detokenizer takes, behind a prompt.
template <class Tokenizer>
TokenTextMaker text_by(const Tokenizer& tokenizer) {
  return [tokenizer] {
    using Text = decltype(Detokenizer(tokenizer));
    const auto text = std::make_shared<Text>(tokenizer, TextPlace::continuation);
    return TokenText{.push = [text](Token token) { return text->push(token); },
                     .finish = [text] { return text->finish(); }};
  };
}

}  // namespace ssm
