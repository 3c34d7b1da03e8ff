// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/byte_tokenizer.hpp"
#include "ssm/io/detokenizer.hpp"

namespace ssm {
namespace detail {

/// What Tokenizer hides.
class TokenizerInterface {
 public:
  TokenizerInterface() = default;
  TokenizerInterface& operator=(const TokenizerInterface&) = delete;
  virtual ~TokenizerInterface() = default;

  /// For another thread.
  virtual std::unique_ptr<TokenizerInterface> copy() const = 0;
  virtual Index vocabulary() const = 0;
  virtual void encode(std::string_view text, std::vector<Token>& tokens) = 0;
  virtual std::string_view bytes(Token token) const = 0;
  virtual bool is_special(Token token) const = 0;
  virtual Index leading_spaces() const = 0;
  virtual std::vector<std::filesystem::path> files() const = 0;

 protected:
  TokenizerInterface(const TokenizerInterface&) = default;
};

class BytesBehindInterface : public TokenizerInterface {
 public:
  BytesBehindInterface() {
    for (int byte = 0; byte < 256; ++byte) all_ += static_cast<char>(byte);
  }
  std::unique_ptr<TokenizerInterface> copy() const override {
    return std::make_unique<BytesBehindInterface>();
  }
  Index vocabulary() const override { return ByteTokenizer::vocabulary(); }
  void encode(std::string_view text, std::vector<Token>& tokens) override {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  }
  std::string_view bytes(Token token) const override {
    if (token < 0 || token >= vocabulary()) static_cast<void>(ByteTokenizer::bytes(token));
    return std::string_view(all_).substr(static_cast<std::size_t>(token), 1);
  }
  bool is_special(Token) const override { return false; }
  Index leading_spaces() const override { return 0; }
  std::vector<std::filesystem::path> files() const override { return {}; }

 private:
  std::string all_;
};

}  // namespace detail

/// Text as tokens and back, of whichever kind: bytes, or what open_tokenizer
/// (ssm/tokenizer/open.hpp) finds in a file.
///   const Tokenizer tokenizer = open_tokenizer("gpt-neox-20b/");
///   const std::vector<Token> tokens = tokenizer.encode("To be");
///   const std::string text = tokenizer.decode(tokens);
/// One object is for one thread at a time: it remembers words that it has met. A copy shares the
/// vocabulary.
class Tokenizer {
 public:
  /// Bytes.
  Tokenizer() : Tokenizer(std::make_unique<detail::BytesBehindInterface>()) {}
  explicit Tokenizer(std::unique_ptr<detail::TokenizerInterface> tokenizer)
      : tokenizer_(std::move(tokenizer)) {}
  Tokenizer(const Tokenizer& other) : tokenizer_(other.tokenizer_->copy()) {}
  Tokenizer(Tokenizer&&) noexcept = default;
  Tokenizer& operator=(const Tokenizer& other) { return *this = Tokenizer(other); }
  Tokenizer& operator=(Tokenizer&&) noexcept = default;
  ~Tokenizer() = default;

  /// Every token is below it. Some numbers may belong to no token.
  Index vocabulary() const { return tokenizer_->vocabulary(); }

  /// No token is added for the beginning or the end of a text; special tokens that are written out
  /// in it are recognized. Bytes that are not UTF-8 count as U+FFFD, unless tokens are bytes.
  std::vector<Token> encode(std::string_view text) const {
    std::vector<Token> tokens;
    tokenizer_->encode(text, tokens);
    return tokens;
  }
  /// The same behind tokens that are there already.
  void encode(std::string_view text, std::vector<Token>& tokens) const {
    tokenizer_->encode(text, tokens);
  }

  /// The bytes of a token, which need not be whole characters.
  /// Throws  ArgumentError  for a number that is not that of a token
  std::string_view bytes(Token token) const { return tokenizer_->bytes(token); }
  /// Marks something, such as the end of a text, rather than being a part of it.
  bool is_special(Token token) const { return tokenizer_->is_special(token); }
  /// Spaces that `encode` puts in front of a text.
  Index leading_spaces() const { return tokenizer_->leading_spaces(); }
  /// The text of tokens, whole characters of UTF-8: see Detokenizer, which gives it piece by piece.
  /// Throws  ArgumentError  as bytes
  std::string decode(std::span<const Token> tokens) const;

  /// The files that it was read from; none for bytes.
  std::vector<std::filesystem::path> files() const { return tokenizer_->files(); }

 private:
  std::unique_ptr<detail::TokenizerInterface> tokenizer_;
};

inline std::string Tokenizer::decode(std::span<const Token> tokens) const {
  Detokenizer<Tokenizer> detokenizer(*this);
  std::string text;
  for (const Token token : tokens) text += detokenizer.push(token);
  return text + detokenizer.finish();
}

}  // namespace ssm
