// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "ssm/core/error.hpp"  // Index
#include "ssm/io/utf8.hpp"

namespace ssm {

/// Counts the words of a text that comes in parts, cut anywhere: what is between whitespace of
/// Unicode, as Python's str.split() has it. Bytes that are no characters belong to words.
///   WordCount count;
///   count.add("To be, or"), count.add(" not");      // 4
class WordCount {
 public:
  void add(std::string_view part) {
    std::string joined;
    if (!incomplete_.empty()) {
      joined = std::move(incomplete_.append(part));
      part = joined;
    }
    incomplete_ = {};
    while (!part.empty()) {
      const detail::Utf8Step step = detail::utf8_step(part);
      if (step.is_incomplete) {
        incomplete_ = part;
        return;
      }
      add_character(step.is_character && is_space(part.substr(0, step.bytes)));
      part.remove_prefix(step.bytes);
    }
  }

  Index words() const { return words_ + (is_open() ? 1 : 0); }
  /// The pieces of Python's re.split(r"\s+", text): one more than there are runs of whitespace, so
  /// whitespace at an end counts for an empty word.
  Index pieces() const { return spaces_ + 1; }

 private:
  static bool is_space(std::string_view character) {
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
  void add_character(bool is_space) {
    if (is_space && !in_space_) ++spaces_;
    if (!is_space && !in_word_) ++words_;
    in_space_ = is_space;
    in_word_ = !is_space;
  }
  /// Bytes at the end that are no character, behind whitespace.
  bool is_open() const { return !incomplete_.empty() && !in_word_; }

  Index words_ = 0;   // that have begun
  Index spaces_ = 0;  // runs of whitespace
  bool in_word_ = false;
  bool in_space_ = false;
  std::string incomplete_;  // the beginning of a character
};

}  // namespace ssm
