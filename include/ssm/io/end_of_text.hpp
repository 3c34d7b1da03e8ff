// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/tokenizer.hpp"

namespace ssm {

/// The special token that is written so, if the tokenizer has it.
inline std::optional<Token> special_token(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<Token> tokens = tokenizer.encode(text);
  if (tokens.size() != 1 || !tokenizer.is_special(tokens.front())) return std::nullopt;
  return tokens.front();
}

/// The token behind each document of a corpus: the first of <|endoftext|>, <|end_of_text|>, </s>
/// and <eos> that the tokenizer has as a special token; none where it has none of them.
///   const std::optional<Token> end = end_of_text(tokenizer);
inline std::optional<Token> end_of_text(const Tokenizer& tokenizer) {
  for (const std::string_view text :
       std::array<std::string_view, 4>{"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"})
    if (const auto token = special_token(tokenizer, text)) return token;
  return std::nullopt;
}

}  // namespace ssm
