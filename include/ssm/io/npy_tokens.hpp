// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/io/input.hpp"
#include "ssm/io/npy.hpp"

namespace ssm {

/// A .npy file of whole numbers as one text of tokens. It is mapped into memory and read where
/// tokens are asked for, so a text may be larger than the memory; FileMapping says what must not
/// happen to the file meanwhile.
///   const NpyTokens text("tokens.npy");  // a pipe or "-" as well, see open_input
///   const TextLoss loss = text_loss(ctx, model.layer, model.parameters, text);
/// Throws  CheckpointError  as NpyFile, for any other shape than [N] or [1, N], for numbers that
///                          are not whole, and where they are read for one that is negative or too
///                          large to be a token
class NpyTokens : public TokenSource {
 public:
  explicit NpyTokens(const std::filesystem::path& path) : NpyTokens(open_input(path)) {}
  explicit NpyTokens(FileReader file) : file_(mapped(std::move(file))) {
    const std::vector<Index>& shape = file_.shape();
    if (shape.size() != 1 && !(shape.size() == 2 && shape[0] == 1))
      throw CheckpointError(file_.name(), "", "is " + shape_text(shape) + ", a text is [N]");
    file_.require_integers();
    size_ = shape.back();
  }

  const NpyFile& file() const { return file_; }
  Index size() const override { return size_; }

  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size_);
    try {
      file_.read_from(begin, View<Token, 1>(out.data(), {static_cast<Index>(out.size())}));
    } catch (const CheckpointError&) {
      refuse_first(begin, static_cast<Index>(out.size()));
      throw;
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      if (out[i] < 0) refuse(out[i], begin + static_cast<Index>(i));
  }

 private:
  [[noreturn]] void refuse(std::int64_t number, Index position) const {
    throw CheckpointError(file_.name(), "",
                          "has " + std::to_string(number) + " at " + std::to_string(position) +
                              ", a token is from 0 to " +
                              std::to_string(std::numeric_limits<Token>::max()));
  }
  /// Says which of them is too large to be a token, if one is.
  void refuse_first(Index begin, Index count) const {
    for (Index i = begin; i < begin + count; ++i) {
      std::int64_t number = 0;
      file_.read_from(i, View<std::int64_t, 1>(&number, {1}));
      if (!std::in_range<Token>(number)) refuse(number, i);
    }
  }
  static FileReader mapped(FileReader file) {
    file.read_by_mapping();
    return file;
  }

  NpyFile file_;
  Index size_ = 0;
};

/// Writes tokens as .npy [N] while it is not known how many there will be: uint16 where every
/// number below `vocabulary` fits, else uint32. The file is replaced as a whole or not at all.
///   NpyTokenWriter file("tokens.npy", tokenizer.vocabulary());
///   while (…) file.write(tokens);
///   file.finish();
/// Cost    memory for 64 Ki tokens
/// Throws  CheckpointError  if it cannot be written; ArgumentError  for a token that is negative or
///                                                                  not below the vocabulary
class NpyTokenWriter {
 public:
  NpyTokenWriter(const std::filesystem::path& path, Index vocabulary)
      : file_(path), vocabulary_(vocabulary) {
    write_prologue([&](std::span<const std::byte> bytes) { file_.write(bytes); });
    buffer_.reserve(buffered * width());
  }

  void write(std::span<const Token> tokens) {
    for (const Token token : tokens) {
      if (token < 0 || token >= vocabulary_)
        throw ArgumentError(file_.name() + ": token " + std::to_string(token) +
                            " is outside the vocabulary of " + std::to_string(vocabulary_));
      const auto number = static_cast<std::uint32_t>(token);
      for (std::size_t byte = 0; byte < width(); ++byte)
        buffer_.push_back(static_cast<std::byte>(number >> (8 * byte) & 0xffU));
      if (buffer_.size() == buffered * width()) flush();
    }
    size_ += static_cast<Index>(tokens.size());
  }
  void finish() {
    flush();
    write_prologue([&](std::span<const std::byte> bytes) { file_.overwrite(0, bytes); });
    file_.commit();
  }

  /// Tokens so far.
  Index size() const { return size_; }
  std::string_view dtype() const {
    return is_narrow() ? npy_dtype<std::uint16_t>() : npy_dtype<std::uint32_t>();
  }

 private:
  static constexpr std::size_t buffered = 1 << 16;  // tokens
  static constexpr std::size_t prologue = 128;      // bytes: room for any number of tokens

  bool is_narrow() const { return vocabulary_ <= Index{1} << 16; }
  std::size_t width() const { return is_narrow() ? 2 : 4; }
  template <class Write>
  void write_prologue(Write&& write) const {
    const std::string text = detail::npy_prologue(dtype(), std::array{size_}, prologue);
    write(std::as_bytes(std::span(text)));
  }
  void flush() {
    file_.write(buffer_);
    buffer_.clear();
  }

  AtomicFile file_;
  Index vocabulary_;
  Index size_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace ssm
