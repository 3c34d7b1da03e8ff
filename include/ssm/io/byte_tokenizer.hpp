// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// Text as bytes: token b is the byte b. Any text, in any language and encoding, has exactly one
/// form.
///   const ByteTokenizer tokenizer;              const auto tokens = tokenizer.encode("To be");
struct ByteTokenizer {
  static constexpr Index vocabulary() { return 256; }

  static std::vector<Token> encode(std::string_view text) {
    std::vector<Token> tokens;
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }

  /// The bytes of a token.
  /// Throws  ArgumentError  outside the vocabulary
  static std::string bytes(Token token) {
    if (token < 0 || token >= vocabulary())
      throw ArgumentError("byte tokenizer: token " + std::to_string(token) + " is not a byte");
    return std::string(1, static_cast<char>(token));
  }
};

}  // namespace ssm
