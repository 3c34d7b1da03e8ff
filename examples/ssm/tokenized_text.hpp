// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/io/byte_tokens.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/tokenizer.hpp"
#include "ssm/language_model.hpp"

namespace ssm::cli {

/// The text of a file as tokens: bytes are read where they are asked for, others are kept.
class TokenizedText {
 public:
  TokenizedText(const std::filesystem::path& path, const Tokenizer& tokenizer) {
    FileReader file = open_input(path);
    name_ = file.name();
    if (tokenizer.files().empty()) {
      bytes_.emplace(std::move(file));
      return;
    }
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text.data(), text.size())));
    tokenizer.encode(text, kept_);
    if (!kept_.empty())
      bytes_per_token_ = static_cast<double>(text.size()) / static_cast<double>(kept_.size());
  }
  TokenizedText(const TokenizedText&) = delete;
  TokenizedText& operator=(const TokenizedText&) = delete;

  /// Bytes of text behind a token, on the average.
  double bytes_per_token() const { return bytes_per_token_; }
  const std::string& name() const { return name_; }
  TokenView tokens() const { return bytes_ ? TokenView(*bytes_) : TokenView(kept_); }
  /// Throws  ArgumentError  for a token that the model does not have
  void require_known(const AnyLanguageModel& model) const { model.require_known(kept_); }

 private:
  std::string name_;
  std::optional<ByteTokens> bytes_;
  std::vector<Token> kept_;
  double bytes_per_token_ = 1;
};

}  // namespace ssm::cli
