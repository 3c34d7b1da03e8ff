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
      add_character(step.is_character && detail::is_space(part.substr(0, step.bytes)));
      part.remove_prefix(step.bytes);
    }
  }

  Index words() const { return words_ + (is_open() ? 1 : 0); }
  /// The pieces of Python's re.split(r"\s+", text): one more than there are runs of whitespace, so
  /// whitespace at an end counts for an empty word.
  Index pieces() const { return spaces_ + 1; }

 private:
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
