// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace ssm::detail {

/// What pre-tokenization tells apart. Letters and numbers are the general categories L and N of the
/// Unicode version that utf8proc has; spaces are those with the property White_Space.
enum class CharacterClass : unsigned char { other, space, letter, number };

/// One character of valid UTF-8.
struct Character {
  std::int32_t code;
  std::size_t bytes;
};
inline Character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::int32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const std::int32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (lead < 0xf0) return {(lead & 0xf) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(lead & 7) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}
/// Where the character before `end` begins.
inline std::size_t character_before(std::string_view text, std::size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U);
  return end;
}

inline CharacterClass class_of(std::int32_t code) {
  switch (::utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharacterClass::space;
    default:
      return (code >= 9 && code <= 13) || code == 0x85 ? CharacterClass::space
                                                       : CharacterClass::other;
  }
}
inline const std::array<CharacterClass, 128>& ascii_classes() {
  static const auto table = [] {
    std::array<CharacterClass, 128> all{};
    for (std::size_t code = 0; code < all.size(); ++code)
      all[code] = class_of(static_cast<std::int32_t>(code));
    return all;
  }();
  return table;
}

/// What regular expressions call \w: Alphabetic, marks, decimal numbers, connectors and joiners.
inline bool is_word_character(std::int32_t code) {
  if (class_of(code) == CharacterClass::letter) return true;
  switch (::utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_SO:  // letters in circles and squares
      return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
             (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
    default:
      return code == 0x200c || code == 0x200d;
  }
}
inline bool is_space(std::int32_t code) { return class_of(code) == CharacterClass::space; }

/// The normal forms of Unicode.
enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// Brings texts into a normal form; keeps its memory between calls.
class UnicodeNormalizer {
 public:
  /// Appends the normal form of valid UTF-8.
  /// Cost  the length of the text, times the logarithm of the longest run of combining marks
  void append(NormalForm form, std::string_view text, std::string& out) {
    // Below this every character is its own form, and ends what came before it.
    const std::int32_t first_affected = form == NormalForm::nfc   ? 0x300
                                        : form == NormalForm::nfd ? 0xc0
                                                                  : 0xa0;
    std::size_t copied = 0;
    std::size_t previous = 0;  // where the character before `at` begins
    for (std::size_t at = 0; at < text.size();) {
      const Character character = character_at(text, at);
      if (character.code < first_affected) {
        previous = at;
        at += character.bytes;
        continue;
      }
      out += text.substr(copied, previous - copied);
      std::size_t end = at;
      codes_.clear();
      if (previous < at) add(form, character_at(text, previous).code);
      while (end < text.size()) {
        const Character next = character_at(text, end);
        if (next.code < first_affected) break;
        // Composes with no character; utf8proc up to 2.8 takes it for the end of a syllable.
        if (next.code == hangul_t_base) {
          finish(form, out);
          codes_.clear();
        }
        add(form, next.code);
        end += next.bytes;
      }
      finish(form, out);
      copied = previous = at = end;
    }
    out += text.substr(copied);
  }

 private:
  static constexpr std::int32_t hangul_t_base = 0x11a7;

  static ::utf8proc_option_t options_of(NormalForm form) {
    int options = UTF8PROC_STABLE;
    options |=
        form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
    return static_cast<::utf8proc_option_t>(options);
  }
  void add(NormalForm form, std::int32_t code) {
    std::array<std::int32_t, 32> parts{};  // U+FDFA, the longest, has 18
    int bound_class = 0;
    const auto count =
        ::utf8proc_decompose_char(code, parts.data(), parts.size(), options_of(form), &bound_class);
    if (count < 0 || count > static_cast<::utf8proc_ssize_t>(parts.size())) throw std::bad_alloc();
    codes_.insert(codes_.end(), parts.begin(), parts.begin() + count);
  }
  static int combining_class(std::int32_t code) {
    return ::utf8proc_get_property(code)->combining_class;
  }
  void finish(NormalForm form, std::string& out) {
    // The canonical order, by a sort that a long run of marks does not make quadratic.
    for (auto begin = codes_.begin(); begin != codes_.end();) {
      if (combining_class(*begin) == 0) {
        ++begin;
        continue;
      }
      const auto end =
          std::find_if(begin, codes_.end(), [](auto code) { return combining_class(code) == 0; });
      std::stable_sort(begin, end,
                       [](auto a, auto b) { return combining_class(a) < combining_class(b); });
      begin = end;
    }
    const auto count = ::utf8proc_normalize_utf32(
        codes_.data(), static_cast<::utf8proc_ssize_t>(codes_.size()), options_of(form));
    for (::utf8proc_ssize_t i = 0; i < count; ++i) {
      std::array<::utf8proc_uint8_t, 4> bytes{};
      const auto length = ::utf8proc_encode_char(codes_[static_cast<std::size_t>(i)], bytes.data());
      out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
    }
  }

  std::vector<std::int32_t> codes_;
};

}  // namespace ssm::detail
