// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "ssm/core/token_view.hpp"
#include "ssm/io/input.hpp"

namespace ssm {

/// A file that is nothing but the numbers of tokens, as other programs write it: whole numbers of 2
/// or 4 bytes without a sign, little-endian. The file does not say which, so whoever opens it does.
/// It is mapped into memory and read where tokens are asked for.
///   const BareTokens text("train.bin", 2);
/// Throws  CheckpointError  as open_input, for a size that is not a multiple of the width, and
///                          where it is read for a number that is too large to be a token;
///         ArgumentError    for another width
class BareTokens : public TokenSource {
 public:
  BareTokens(const std::filesystem::path& path, std::size_t width)
      : BareTokens(open_input(path), width) {}
  BareTokens(FileReader file, std::size_t width) : file_(std::move(file)), width_(width) {
    if (width != 2 && width != 4)
      throw ArgumentError("bare tokens are of 2 or 4 bytes, not of " + std::to_string(width));
    if (file_.size() % width != 0)
      throw CheckpointError(file_.name(), "",
                            "has " + std::to_string(file_.size()) +
                                " bytes, which is no number of " + std::to_string(width) +
                                "-byte tokens");
    file_.read_by_mapping();
  }

  const FileReader& file() const { return file_; }
  Index size() const override { return static_cast<Index>(file_.size() / width_); }

  void read(Index begin, std::span<Token> out) const override {
    require_inside(begin, out.size(), size());
    std::array<std::byte, 4096> bytes;
    auto offset = static_cast<std::uint64_t>(begin) * width_;
    while (!out.empty()) {
      const std::size_t count = std::min(bytes.size() / width_, out.size());
      file_.read(offset, std::span(bytes).first(count * width_));
      for (std::size_t i = 0; i < count; ++i) out[i] = token_at(&bytes[i * width_], offset, i);
      out = out.subspan(count);
      offset += count * width_;
    }
  }

 private:
  Token token_at(const std::byte* bytes, std::uint64_t offset, std::size_t i) const {
    std::uint32_t number = 0;
    for (std::size_t byte = 0; byte < width_; ++byte)
      number |= std::to_integer<std::uint32_t>(bytes[byte]) << (8 * byte);
    if (!std::in_range<Token>(number))
      throw CheckpointError(file_.name(), "",
                            "has " + std::to_string(number) + " at position " +
                                std::to_string(offset / width_ + i) + ", which is no token");
    return static_cast<Token>(number);
  }

  FileReader file_;
  std::size_t width_;
};

}  // namespace ssm
