// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/tokenizer.hpp"
#include "ssm/tokenizer/added_tokens.hpp"
#include "ssm/tokenizer/bpe_model.hpp"
#include "ssm/tokenizer/normalizer.hpp"
#include "ssm/tokenizer/pre_tokenizer.hpp"

namespace ssm::detail {

/// What each token says.
class TokenTexts {
 public:
  void resize(Index vocabulary) { entries_.resize(static_cast<std::size_t>(vocabulary)); }
  Index size() const { return static_cast<Index>(entries_.size()); }
  bool has(Token token) const {
    return token >= 0 && token < size() && entries_[static_cast<std::size_t>(token)].is_there;
  }
  void set(Token token, std::string_view text, bool is_special) {
    entries_[static_cast<std::size_t>(token)] = {
        all_.size(), static_cast<std::uint32_t>(text.size()), true, is_special};
    all_ += text;
  }
  std::string_view text(Token token) const {
    const Entry& entry = entries_[static_cast<std::size_t>(token)];
    return std::string_view(all_).substr(entry.begin, entry.bytes);
  }
  bool is_special(Token token) const {
    return has(token) && entries_[static_cast<std::size_t>(token)].is_special;
  }

 private:
  struct Entry {
    std::size_t begin = 0;
    std::uint32_t bytes = 0;
    bool is_there = false;
    bool is_special = false;
  };
  std::vector<Entry> entries_;
  std::string all_;
};

/// What a tokenizer's files say.
struct BpeTokenizerParts {
  BpeModel model;
  AddedTokenMatcher before_normalization, after_normalization;
  TextNormalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenTexts texts;
  Index leading_spaces = 0;
  std::vector<std::filesystem::path> files;
};

/// Byte pair encoding behind added tokens, a normalizer and a pre-tokenizer.
class BpeTokenizer : public TokenizerInterface {
 public:
  explicit BpeTokenizer(std::shared_ptr<const BpeTokenizerParts> parts)
      : parts_(std::move(parts)),
        normalizer_(parts_->normalizer),
        pre_tokenizer_(parts_->pre_tokenizer),
        encoder_(parts_->model) {}

  std::unique_ptr<TokenizerInterface> copy() const override {
    return std::make_unique<BpeTokenizer>(parts_);
  }
  Index vocabulary() const override { return parts_->texts.size(); }
  Index leading_spaces() const override { return parts_->leading_spaces; }
  bool is_special(Token token) const override { return parts_->texts.is_special(token); }
  std::vector<std::filesystem::path> files() const override { return parts_->files; }

  std::string_view bytes(Token token) const override {
    if (!parts_->texts.has(token))
      throw ArgumentError("tokenizer: " + std::to_string(token) + " is no token, there are 0 to " +
                          std::to_string(vocabulary() - 1));
    return parts_->texts.text(token);
  }

  void encode(std::string_view text, std::vector<Token>& tokens) override {
    if (valid_utf8_prefix(text) == text.size()) return encode_valid(text, tokens);
    encode_valid(replace_invalid_utf8(text), tokens);
  }

 private:
  void encode_valid(std::string_view text, std::vector<Token>& tokens) {
    const auto on_token = [&](Token token) { tokens.push_back(token); };
    const auto on_text = [&](std::string_view part) {
      const std::string_view normal = normalizer_.is_empty() ? part : normalizer_(part);
      parts_->after_normalization.split(
          normal,
          [&](std::string_view rest) {
            const bool is_first = part.data() == text.data() && rest.data() == normal.data();
            pre_tokenizer_.split(rest, is_first,
                                 [&](std::string_view piece) { append_piece(piece, tokens); });
          },
          on_token);
    };
    parts_->before_normalization.split(text, on_text, on_token);
  }
  void append_piece(std::string_view piece, std::vector<Token>& tokens) {
    if (!parts_->model.joins.may_cut()) return append_word(piece, tokens);
    parts_->model.joins.split(piece, [&](std::string_view part) { append_word(part, tokens); });
  }
  void append_word(std::string_view word, std::vector<Token>& tokens) {
    cache_.append(word, tokens, [&](std::string_view missing, std::vector<Token>& found) {
      encoder_.append(missing, found);
    });
  }

  std::shared_ptr<const BpeTokenizerParts> parts_;
  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeEncoder encoder_;
  WordCache cache_;
};

}  // namespace ssm::detail
