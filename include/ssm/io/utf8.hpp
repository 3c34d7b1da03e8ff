// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ssm::detail {

/// What a text begins with: a character, or bytes that are none.
struct Utf8Step {
  std::size_t bytes;
  bool is_character;
  bool is_incomplete;  // more bytes may make it a character
};

/// The first character, or the longest beginning of one.
/// Source  The Unicode Standard, §3.9: substitution of maximal subparts
inline Utf8Step utf8_step(std::string_view bytes) {
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

/// Whether a character is whitespace of Unicode, as Python's str.isspace() has it.
inline bool is_space(std::string_view character) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(character[i]); };
  switch (character.size()) {
    case 1:
      return at(0) == ' ' || (at(0) >= 0x09 && at(0) <= 0x0d) || (at(0) >= 0x1c && at(0) <= 0x1f);
    case 2:  // U+0085, U+00A0
      return at(0) == 0xc2 && (at(1) == 0x85 || at(1) == 0xa0);
    case 3:
      return character == "\u1680" || character == "\u3000" || character == "\u205f" ||
             (at(0) == 0xe2 && at(1) == 0x80 &&  // U+2000 … U+200A, U+2028, U+2029, U+202F
              (at(2) <= 0x8a || at(2) == 0xa8 || at(2) == 0xa9 || at(2) == 0xaf));
    default:
      return false;
  }
}

/// How many bytes from the beginning on are whole characters.
inline std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (!step.is_character) break;
    at += step.bytes;
  }
  return at;
}

/// The text with U+FFFD for each maximal part of it that is no character.
inline std::string replace_invalid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    valid += step.is_character ? text.substr(0, step.bytes) : std::string_view("\uFFFD");
    text.remove_prefix(step.bytes);
  }
  return valid;
}

}  // namespace ssm::detail
