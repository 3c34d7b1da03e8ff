// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/io/byte_tokens.hpp"
#include "ssm/io/npy_tokens.hpp"
#include "ssm/io/tokenizer.hpp"
#include "ssm/io/word_count.hpp"
#include "ssm/language_model.hpp"

namespace ssm::cli {

/// Where a text is, and what is put around each of its documents.
struct ScoredInput {
  std::filesystem::path text;    // or
  std::filesystem::path tokens;  // a .npy file
  bool is_json_lines = false;    // the text is a document a line: {"text": …}
  std::optional<Token> before{}, after{};
};

/// How much text there is.
struct TextSize {
  Index bytes = 0;
  Index words = 0;
  Index pieces = 0;  // see WordCount

  TextSize& operator+=(const TextSize& other) {
    bytes += other.bytes;
    words += other.words;
    pieces += other.pieces;
    return *this;
  }
};

/// A text as tokens, by documents: bytes and .npy files are read where they are asked for, others
/// are kept.
class ScoredText {
 public:
  /// tokenizer   may be absent for a .npy file; then nothing is known of sizes
  /// Throws  CheckpointError  for what cannot be read, and a line that is no document
  ScoredText(const ScoredInput& input, std::optional<Tokenizer> tokenizer);
  ScoredText(const ScoredText&) = delete;
  ScoredText& operator=(const ScoredText&) = delete;

  const std::string& name() const { return name_; }
  const std::optional<Tokenizer>& tokenizer() const { return tokenizer_; }
  TokenView tokens() const;
  /// Where each document begins among the tokens, and behind the last one where they end.
  const std::vector<Index>& documents() const { return documents_; }
  /// Of the text as it was.
  const TextSize& size() const { return size_; }
  /// Of the text that the tokens from `begin` on stand for.
  TextSize size_from(Index begin) const;
  /// Of one token; special ones are no text.
  Index bytes_at(Index position) const;

 private:
  void add_document(std::string_view text, const ScoredInput& input);

  std::string name_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ByteTokens> bytes_;
  std::optional<NpyTokens> npy_;
  std::vector<Token> kept_;
  std::vector<Index> documents_{0};
  TextSize size_;
};

}  // namespace ssm::cli
