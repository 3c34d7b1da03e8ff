// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ssm/core/error.hpp"

namespace ssm::detail {

/// Bits of bytes, the least significant first.
class BitReader {
 public:
  explicit BitReader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  unsigned bit() {
    if (at_ >= 8 * bytes_.size()) throw ArgumentError("deflate: the data end too early");
    const unsigned result = bytes_[at_ / 8] >> (at_ % 8) & 1U;
    ++at_;
    return result;
  }
  unsigned bits(int count) {
    unsigned result = 0;
    for (int i = 0; i < count; ++i) result |= bit() << i;
    return result;
  }
  void skip_to_byte() { at_ = (at_ + 7) / 8 * 8; }

 private:
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

/// A canonical Huffman code, given by the length of each symbol's word; 0: it has none.
class HuffmanCode {
 public:
  explicit HuffmanCode(std::span<const std::uint8_t> lengths) : sorted_(lengths.size()) {
    for (const std::uint8_t length : lengths) ++count_[length];
    count_[0] = 0;
    int left = 1;
    for (std::size_t length = 1; length < count_.size(); ++length) {
      left = 2 * left - count_[length];
      if (left < 0) throw ArgumentError("deflate: a code has too many words");
    }
    std::array<std::size_t, 16> next{};
    for (std::size_t length = 1; length + 1 < count_.size(); ++length)
      next[length + 1] = next[length] + static_cast<std::size_t>(count_[length]);
    for (std::size_t symbol = 0; symbol < lengths.size(); ++symbol)
      if (lengths[symbol] != 0) sorted_[next[lengths[symbol]]++] = static_cast<unsigned>(symbol);
  }

  unsigned read(BitReader& from) const {
    int code = 0, first = 0;
    std::size_t index = 0;
    for (std::size_t length = 1; length < count_.size(); ++length) {
      code |= static_cast<int>(from.bit());
      if (code - first < count_[length])
        return sorted_[index + static_cast<std::size_t>(code - first)];
      index += static_cast<std::size_t>(count_[length]);
      first = 2 * (first + count_[length]);
      code *= 2;
    }
    throw ArgumentError("deflate: a word that the code does not have");
  }

 private:
  std::array<int, 16> count_{};  // words of each length
  std::vector<unsigned> sorted_;
};

/// One block whose literals, lengths and distances are in these codes.
inline void inflate_block(BitReader& from, const HuffmanCode& literals,
                          const HuffmanCode& distances, std::size_t limit,
                          std::vector<std::uint8_t>& to) {
  static constexpr std::array<unsigned, 29> length_base{3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                                        15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                                        67, 83, 99, 115, 131, 163, 195, 227, 258};
  static constexpr std::array<int, 29> length_bits{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                   2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
  for (;;) {
    const unsigned symbol = literals.read(from);
    if (symbol == 256) return;
    if (symbol < 256) {
      if (to.size() >= limit) throw ArgumentError("deflate: more data than there should be");
      to.push_back(static_cast<std::uint8_t>(symbol));
      continue;
    }
    if (symbol - 257 >= length_base.size()) throw ArgumentError("deflate: a length that is none");
    const std::size_t length = length_base[symbol - 257] + from.bits(length_bits[symbol - 257]);
    const unsigned code = distances.read(from);
    if (code >= 30) throw ArgumentError("deflate: a distance that is none");
    const int extra = code < 4 ? 0 : static_cast<int>(code / 2 - 1);
    const std::size_t distance =
        (code < 4 ? code + 1 : (2 + (code & 1U)) * (1U << extra) + 1) + from.bits(extra);
    if (distance > to.size()) throw ArgumentError("deflate: a distance before the data");
    if (length > limit - to.size()) throw ArgumentError("deflate: more data than there should be");
    for (std::size_t i = 0; i < length; ++i) to.push_back(to[to.size() - distance]);
  }
}

/// The codes of a block that brings its own.
inline void inflate_own_codes(BitReader& from, std::size_t limit, std::vector<std::uint8_t>& to) {
  static constexpr std::array<std::size_t, 19> order{16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                     11, 4,  12, 3, 13, 2, 14, 1, 15};
  const std::size_t literals = from.bits(5) + 257, distances = from.bits(5) + 1;
  const std::size_t words = from.bits(4) + 4;
  std::array<std::uint8_t, 19> of_lengths{};
  for (std::size_t i = 0; i < words; ++i)
    of_lengths[order[i]] = static_cast<std::uint8_t>(from.bits(3));
  const HuffmanCode code(of_lengths);
  std::vector<std::uint8_t> lengths;
  while (lengths.size() < literals + distances) {
    const unsigned symbol = code.read(from);
    if (symbol < 16) {
      lengths.push_back(static_cast<std::uint8_t>(symbol));
      continue;
    }
    if (symbol == 16 && lengths.empty()) throw ArgumentError("deflate: nothing to repeat");
    const std::uint8_t repeated = symbol == 16 ? lengths.back() : std::uint8_t{0};
    const unsigned times = symbol == 16   ? 3 + from.bits(2)
                           : symbol == 17 ? 3 + from.bits(3)
                                          : 11 + from.bits(7);
    lengths.insert(lengths.end(), times, repeated);
  }
  if (lengths.size() > literals + distances) throw ArgumentError("deflate: too many lengths");
  const std::span<const std::uint8_t> all(lengths);
  inflate_block(from, HuffmanCode(all.first(literals)), HuffmanCode(all.subspan(literals)), limit,
                to);
}

/// What zlib compressed.
/// limit   the most bytes that it may be
/// Throws  ArgumentError  for damaged data, and for more bytes than the limit
/// Source  RFC 1950, RFC 1951; the checksum is not looked at
inline std::vector<std::uint8_t> inflate(std::span<const std::uint8_t> bytes, std::size_t limit) {
  if (bytes.size() < 2 || (bytes[0] & 15U) != 8 || (256U * bytes[0] + bytes[1]) % 31 != 0 ||
      (bytes[1] & 32U) != 0)
    throw ArgumentError("deflate: no data of zlib");
  BitReader from(bytes.subspan(2));
  std::vector<std::uint8_t> to;
  for (bool is_last = false; !is_last;) {
    is_last = from.bit() == 1;
    const unsigned kind = from.bits(2);
    if (kind == 0) {
      from.skip_to_byte();
      const unsigned length = from.bits(16);
      if (from.bits(16) != (length ^ 0xffffU)) throw ArgumentError("deflate: a damaged length");
      if (length > limit - to.size())
        throw ArgumentError("deflate: more data than there should be");
      for (unsigned i = 0; i < length; ++i) to.push_back(static_cast<std::uint8_t>(from.bits(8)));
    } else if (kind == 1) {
      std::array<std::uint8_t, 288> lengths{};
      for (std::size_t i = 0; i < lengths.size(); ++i)
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
      std::array<std::uint8_t, 30> distances{};
      distances.fill(5);
      inflate_block(from, HuffmanCode(lengths), HuffmanCode(distances), limit, to);
    } else if (kind == 2) {
      inflate_own_codes(from, limit, to);
    } else {
      throw ArgumentError("deflate: a block of no kind");
    }
  }
  return to;
}

}  // namespace ssm::detail
