// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/scalar.hpp"  // Token
#include "ssm/tokenizer/unicode.hpp"

namespace ssm::detail {

/// A token that is looked for in the text before anything else happens to it.
struct AddedToken {
  std::string content;
  Token id = 0;
  bool is_special = false;
  bool is_single_word = false;  // no letter, mark or number before or behind it
  bool takes_left = false;      // the spaces before it belong to it
  bool takes_right = false;     // and those behind it
  bool is_normalized = true;    // looked for in the normal form of the text
};

/// Finds added tokens in a text, of several that begin at one place the longest.
/// Cost  the length of the text, times that of the longest token where much looks like one
class AddedTokenMatcher {
 public:
  /// `content` is what is looked for.
  void add(std::string_view content, const AddedToken& token) {
    if (content.empty()) return;
    if (nodes_.empty()) nodes_.emplace_back();
    std::size_t node = 0;
    for (const char c : content) {
      std::size_t next = child(node, c);
      if (next == 0) {
        next = nodes_.size();
        nodes_.emplace_back();
        nodes_[node].children.emplace_back(c, static_cast<std::uint32_t>(next));
      }
      node = next;
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(token);
    starts_.set(static_cast<unsigned char>(content.front()));
  }
  bool is_empty() const { return tokens_.empty(); }

  /// Calls on_text(part) and on_token(id) in the order of the text.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t copied = 0;
    if (!tokens_.empty()) {
      for (std::size_t at = 0; at < text.size();) {
        if (!starts_.test(static_cast<unsigned char>(text[at]))) {
          ++at;
          continue;
        }
        const auto [length, index] = longest_at(text, at);
        if (length == 0) {
          ++at;
          continue;
        }
        const AddedToken& token = tokens_[index];
        std::size_t begin = at, end = at + length;
        at = end;
        if (token.is_single_word && !stands_alone(text, begin, end)) continue;
        if (token.takes_left)
          while (begin > copied && is_space(character_at(text, character_before(text, begin)).code))
            begin = character_before(text, begin);
        if (token.takes_right)
          while (end < text.size() && is_space(character_at(text, end).code))
            end += character_at(text, end).bytes;
        if (begin > copied) on_text(text.substr(copied, begin - copied));
        on_token(token.id);
        copied = std::max(copied, end);
      }
    }
    if (copied < text.size()) on_text(text.substr(copied));
  }

 private:
  struct Node {
    std::vector<std::pair<char, std::uint32_t>> children;
    std::int32_t token = -1;
  };

  std::size_t child(std::size_t node, char c) const {
    for (const auto& [byte, next] : nodes_[node].children)
      if (byte == c) return next;
    return 0;
  }
  /// Bytes, and which token; no bytes where none begins here.
  std::pair<std::size_t, std::size_t> longest_at(std::string_view text, std::size_t begin) const {
    std::pair<std::size_t, std::size_t> longest{0, 0};
    std::size_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
      node = child(node, text[at]);
      if (node == 0) break;
      if (nodes_[node].token >= 0)
        longest = {at + 1 - begin, static_cast<std::size_t>(nodes_[node].token)};
    }
    return longest;
  }
  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    const bool left =
        begin == 0 || !is_word_character(character_at(text, character_before(text, begin)).code);
    const bool right = end == text.size() || !is_word_character(character_at(text, end).code);
    return left && right;
  }

  std::vector<Node> nodes_;
  std::vector<AddedToken> tokens_;
  std::bitset<256> starts_;
};

}  // namespace ssm::detail
