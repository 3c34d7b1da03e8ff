// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// Tokens that need not be in memory, those of a file for example: they are read where they are
/// asked for.
class TokenSource {
 public:
  TokenSource() = default;
  virtual ~TokenSource() = default;

  virtual Index size() const = 0;
  /// Fills `out` with the tokens from `begin` on; may be called by several threads at once.
  /// Throws  what reading throws, and ArgumentError for a range that is not inside
  virtual void read(Index begin, std::span<Token> out) const = 0;

 protected:
  TokenSource(const TokenSource&) = default;
  TokenSource(TokenSource&&) = default;
  TokenSource& operator=(const TokenSource&) = default;
  TokenSource& operator=(TokenSource&&) = default;

  static void require_inside(Index begin, std::size_t count, Index size) {
    if (begin < 0 || begin > size || count > static_cast<std::size_t>(size - begin))
      throw ArgumentError("tokens " + std::to_string(begin) + " + " + std::to_string(count) +
                          " are outside a text of " + std::to_string(size));
  }
  friend class TokenView;
};

/// A text as tokens, or a part of one, wherever they are: in memory, or in a TokenSource. Passed by
/// value, like a string_view; what it views must outlive it.
///   const std::vector<Token> tokens = …;
///   TokenView text = tokens;
///   const ByteTokens book("book.txt");
///   TokenView last = TokenView(book).subview(begin, count);
/// Cost    a copy of the tokens that are read, and of no others
class TokenView {
 public:
  TokenView() = default;
  template <class R>
    requires(!std::same_as<std::remove_cvref_t<R>, TokenView> &&
             std::convertible_to<R, std::span<const Token>>)
  TokenView(R&& tokens) {
    const std::span<const Token> span(tokens);
    memory_ = span.data();
    size_ = static_cast<Index>(span.size());
  }
  TokenView(const TokenSource& source) : source_(&source), size_(source.size()) {}

  Index size() const { return size_; }
  bool empty() const { return size_ == 0; }

  /// Throws  ArgumentError  for a range that is not inside
  TokenView subview(Index begin, Index count) const {
    if (count < 0) throw ArgumentError("tokens: a part of " + std::to_string(count));
    TokenSource::require_inside(begin, static_cast<std::size_t>(count), size_);
    TokenView part = *this;
    part.begin_ = begin_ + begin;
    part.size_ = count;
    return part;
  }

  /// Fills `out` with the tokens from `begin` on.
  /// Throws  ArgumentError  for a range that is not inside; and what reading a file throws
  void read(Index begin, std::span<Token> out) const {
    TokenSource::require_inside(begin, out.size(), size_);
    if (source_ != nullptr)
      source_->read(begin_ + begin, out);
    else
      std::copy_n(memory_ + begin_ + begin, out.size(), out.data());
  }

 private:
  const Token* memory_ = nullptr;
  const TokenSource* source_ = nullptr;  // where they are not in memory
  Index begin_ = 0;
  Index size_ = 0;
};

}  // namespace ssm
