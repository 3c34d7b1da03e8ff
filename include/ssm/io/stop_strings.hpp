// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"

namespace ssm {

/// Ends a text that arrives in pieces before the first of some strings, however the pieces cut it.
/// What may be the beginning of one is held back until it is known not to be.
///   StopStrings text({"\n\n", "User:"});
///   std::cout << text.push("Hello.\n");     // "Hello."
///   std::cout << text.push("\nUs");         // "", and text.matched() is 0
/// Of several, the one that is complete first counts; of those complete at once, the longest.
/// Cost    O(pieces · (strings + their lengths))
/// Throws  ArgumentError  for an empty string, which every text would end before
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
    for (const std::string& string : strings_) {
      if (string.empty()) throw ArgumentError("a stop string is empty");
      longest_ = std::max(longest_, string.size());
    }
  }

  /// What of the text is known to come before every stop string; nothing once one has matched.
  std::string push(std::string_view piece) {
    if (matched_) return "";
    const std::size_t before = held_.size();
    held_ += piece;
    std::size_t end = std::string::npos;  // behind the match
    for (std::size_t i = 0; i < strings_.size(); ++i) {
      // A match that ended within what was held before would have been found then.
      const std::size_t length = strings_[i].size();
      const std::size_t first = before >= length ? before - length + 1 : 0;
      const std::size_t found = held_.find(strings_[i], first);
      if (found == std::string::npos) continue;
      const bool is_first = end == std::string::npos || found + length < end;
      const bool is_longer = found + length == end && length > strings_[*matched_].size();
      if (!is_first && !is_longer) continue;
      matched_ = i;
      end = found + length;
    }
    if (matched_) return take(end - strings_[*matched_].size());
    return take(held_.size() - beginning_at_end());
  }
  /// What was held back, at the end of the text; nothing where a stop string has matched.
  std::string finish() {
    if (matched_) return "";
    return take(held_.size());
  }
  /// Which string has ended the text.
  const std::optional<std::size_t>& matched() const { return matched_; }

 private:
  std::string take(std::size_t count) {
    std::string text = held_.substr(0, count);
    held_.erase(0, count);
    return text;
  }
  /// How much of the end of the held text may be the beginning of a stop string.
  std::size_t beginning_at_end() const {
    for (std::size_t count = std::min(held_.size(), longest_); count > 0; --count) {
      const std::string_view end = std::string_view(held_).substr(held_.size() - count);
      for (const std::string& string : strings_)
        if (string.size() > count && string.starts_with(end)) return count;
    }
    return 0;
  }

  std::vector<std::string> strings_;
  std::size_t longest_ = 0;
  std::string held_;
  std::optional<std::size_t> matched_;
};

}  // namespace ssm
