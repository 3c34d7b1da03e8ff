// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <span>
#include <utility>

#include "ssm/core/token_view.hpp"
#include "ssm/io/input.hpp"

namespace ssm {

/// The bytes of a file as tokens, token b the byte b, as ByteTokenizer has them. They are read
/// where they are asked for, so a text may be larger than the memory.
///   const ByteTokens text("book.txt");  // a pipe or "-" as well, see open_input
///   const TextStreams streams(text, 256, 16, Seed{1});
/// Throws  CheckpointError  as open_input and FileReader
class ByteTokens : public TokenSource {
 public:
  explicit ByteTokens(const std::filesystem::path& path) : ByteTokens(open_input(path)) {}
  explicit ByteTokens(FileReader file) : file_(std::move(file)) {}

  const FileReader& file() const { return file_; }
  Index size() const override { return static_cast<Index>(file_.size()); }

  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size());
    std::array<std::byte, 4096> bytes;
    auto offset = static_cast<std::uint64_t>(begin);
    while (!out.empty()) {
      const auto part = std::span(bytes).first(std::min(bytes.size(), out.size()));
      file_.read(offset, part);
      std::transform(part.begin(), part.end(), out.begin(),
                     [](std::byte b) { return std::to_integer<Token>(b); });
      out = out.subspan(part.size());
      offset += part.size();
    }
  }

 private:
  FileReader file_;
};

}  // namespace ssm
