// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/io/utf8.hpp"

namespace ssm {

/// Where the tokens of a Detokenizer stand.
enum class TextPlace {
  beginning,     // of a text: a space that the tokenizer put in front is taken away
  continuation,  // behind a text that others wrote: every space counts
};

/// Tokens as text while they arrive: what `push` returns is always whole characters of UTF-8. A
/// character that is not complete yet is held back; bytes that can never become one are replaced by
/// U+FFFD.
///   Detokenizer text(tokenizer);
///   for (Token token : generate(…)) std::cout << text.push(token) << std::flush;
///   std::cout << text.finish();
/// The tokenizer, anything with `bytes(token)`, is copied. Where it has `leading_spaces()`, that
/// many spaces at the beginning of a text are its own and left out.
/// Source  The Unicode Standard, §3.9: substitution of maximal subparts
template <class TokenizerType>
class Detokenizer {
 public:
  explicit Detokenizer(TokenizerType tokenizer, TextPlace place = TextPlace::beginning)
      : tokenizer_(std::move(tokenizer)) {
    if constexpr (requires { tokenizer_.leading_spaces(); })
      if (place == TextPlace::beginning) spaces_ = tokenizer_.leading_spaces();
  }

  std::string push(Token token) {
    held_ += tokenizer_.bytes(token);
    if (spaces_ > 0) drop_spaces();
    return take(false);
  }
  /// What is left: a replacement for a character that stayed incomplete.
  std::string finish() { return take(true); }

 private:
  void drop_spaces() {
    const auto all = static_cast<Index>(std::min(held_.find_first_not_of(' '), held_.size()));
    const Index dropped = std::min(all, spaces_);
    held_.erase(0, static_cast<std::size_t>(dropped));
    spaces_ = held_.empty() ? spaces_ - dropped : 0;
  }
  std::string take(bool is_end) {
    std::string text;
    std::string_view rest = held_;
    while (!rest.empty()) {
      const detail::Utf8Step step = detail::utf8_step(rest);
      if (step.is_incomplete && !is_end) break;
      text += step.is_character ? rest.substr(0, step.bytes) : std::string_view("\uFFFD");
      rest.remove_prefix(step.bytes);
    }
    held_ = std::string(rest);
    return text;
  }

  TokenizerType tokenizer_;
  std::string held_;
  Index spaces_ = 0;  // that are still to be left out
};

}  // namespace ssm
