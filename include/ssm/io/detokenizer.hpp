// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// Tokens as text while they arrive: what `push` returns is always whole characters of UTF-8. A
/// character that is not complete yet is held back; bytes that can never become one are replaced by
/// U+FFFD.
///   Detokenizer text(tokenizer);
///   for (Token token : generate(…)) std::cout << text.push(token) << std::flush;
///   std::cout << text.finish();
/// The tokenizer, anything with `bytes(token)`, is copied.
/// Source  The Unicode Standard, §3.9: substitution of maximal subparts
template <class Tokenizer>
class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  std::string push(Token token) {
    held_ += tokenizer_.bytes(token);
    return take(false);
  }
  /// What is left: a replacement for a character that stayed incomplete.
  std::string finish() { return take(true); }

 private:
  struct Step {
    std::size_t bytes;
    bool is_character;
    bool is_incomplete;
  };

  std::string take(bool is_end) {
    std::string text;
    std::string_view rest = held_;
    while (!rest.empty()) {
      const Step step = next(rest);
      if (step.is_incomplete && !is_end) break;
      text += step.is_character ? rest.substr(0, step.bytes) : std::string_view("\uFFFD");
      rest.remove_prefix(step.bytes);
    }
    held_ = std::string(rest);
    return text;
  }

  /// The first character, or the longest beginning of one.
  static Step next(std::string_view bytes) {
    const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
    const unsigned char lead = at(0);
    if (lead < 0x80) return {1, true, false};
    const std::size_t length = lead < 0xc2   ? 0
                               : lead < 0xe0 ? 2
                               : lead < 0xf0 ? 3
                               : lead < 0xf5 ? 4
                                             : 0;
    if (length == 0) return {1, false, false};
    // The second byte rules out overlong forms, surrogates, and numbers beyond U+10FFFF.
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (std::size_t i = 1; i < length; ++i) {
      if (i == bytes.size()) return {i, false, true};
      const bool fits = i == 1 ? at(i) >= low && at(i) <= high : (at(i) & 0xc0U) == 0x80;
      if (!fits) return {i, false, false};
    }
    return {length, true, false};
  }

  Tokenizer tokenizer_;
  std::string held_;
};

}  // namespace ssm
