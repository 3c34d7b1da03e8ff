// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/io/tokenizer.hpp"
#include "ssm/io/word_count.hpp"
#include "ssm/language_model.hpp"

namespace ssm::cli {

/// Where a text is, and what is put around each of its documents.
struct ScoredInput {
  std::filesystem::path text;    // or
  std::filesystem::path tokens;  // a .npy file, or
  std::string bare = {};         // nothing but numbers, "uint16" or "uint32"
  std::string field = {};        // of the JSON object that each line is: a document
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

/// A text as tokens, by documents: bytes and files of tokens are read where they are asked for,
/// others are kept.
class ScoredText {
 public:
  /// tokenizer    may be absent for a file of tokens; then nothing is known of sizes
  /// vocabulary   of the model
  /// Throws  CheckpointError  for what cannot be read, and a line that is no document;
  ///         ArgumentError    naming text and place, for a token that the model does not have
  ScoredText(const ScoredInput& input, std::optional<Tokenizer> tokenizer, Index vocabulary);
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
  Index bytes_at(Index position) const;

 private:
  /// Calls visit(token, position) for each from `begin` on.
  template <class Visit>
  void for_each_token(Index begin, Visit&& visit) const;
  void read(const ScoredInput& input);
  void require_known(Index vocabulary) const;
  /// Special tokens are no text, nor are numbers beyond the tokenizer's.
  std::string_view text_of(Token token) const;
  /// A JSON object with the field, and perhaps "original": what the text was made from, whose bytes
  /// and words count.
  void add_line(std::string_view line, const std::string& place, const ScoredInput& input);
  void add_document(std::string_view text, std::string_view original, const ScoredInput& input);

  std::string name_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<TokenSource> source_;  // where the tokens are not kept
  std::vector<Token> kept_;
  std::vector<Index> documents_{0};
  TextSize size_;
};

}  // namespace ssm::cli
