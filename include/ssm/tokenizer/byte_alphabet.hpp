// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ssm/tokenizer/unicode.hpp"

namespace ssm::detail {

/// The printable characters that stand for bytes in the vocabularies of byte-level tokenizers: a
/// byte that Latin-1 prints stands for itself, the others in order for U+0100 and on.
/// Source  Radford et al. 2019 (GPT-2), the encoder published with the model
class ByteAlphabet {
 public:
  ByteAlphabet() {
    std::int32_t next = 0x100;
    for (std::int32_t byte = 0; byte < 256; ++byte) {
      const bool is_printed = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
                              (byte >= 0xae && byte <= 0xff);
      const std::int32_t code = is_printed ? byte : next++;
      std::string& text = characters_[static_cast<std::size_t>(byte)];
      if (code < 0x80) {
        text += static_cast<char>(code);
      } else {
        text += static_cast<char>(0xc0 | code >> 6);
        text += static_cast<char>(0x80 | (code & 0x3f));
      }
      bytes_[static_cast<std::size_t>(code)] = static_cast<std::int16_t>(byte);
    }
  }

  const std::string& character(unsigned char byte) const { return characters_[byte]; }

  /// Bytes as the characters that stand for them.
  std::string spelled(std::string_view bytes) const {
    std::string text;
    for (const char c : bytes) text += character(static_cast<unsigned char>(c));
    return text;
  }
  /// The bytes that a spelling stands for; none where a character stands for no byte.
  std::optional<std::string> bytes(std::string_view spelling) const {
    std::string all;
    for (std::size_t at = 0; at < spelling.size();) {
      const Character character = character_at(spelling, at);
      if (character.code >= static_cast<std::int32_t>(bytes_.size())) return std::nullopt;
      const std::int16_t byte = bytes_[static_cast<std::size_t>(character.code)];
      if (byte < 0) return std::nullopt;
      all += static_cast<char>(byte);
      at += character.bytes;
    }
    return all;
  }

 private:
  std::array<std::string, 256> characters_;
  std::array<std::int16_t, 0x144> bytes_ = [] {
    std::array<std::int16_t, 0x144> none{};
    none.fill(-1);
    return none;
  }();
};

inline const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace ssm::detail
