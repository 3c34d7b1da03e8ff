// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"  // Index
#include "ssm/io/utf8.hpp"

// Strings of Python's, which data sets are described in: positions count characters of valid UTF-8.
namespace ssm::detail {

/// Where each character begins, and behind the last one where the text ends.
inline std::vector<std::size_t> character_offsets(std::string_view text) {
  std::vector<std::size_t> offsets;
  for (std::size_t at = 0; at < text.size();) {
    offsets.push_back(at);
    at += utf8_step(text.substr(at)).bytes;
  }
  offsets.push_back(text.size());
  return offsets;
}
inline Index character_count(std::string_view text) {
  return static_cast<Index>(character_offsets(text).size()) - 1;
}
/// text[begin:end] of characters; what is outside is left out.
inline std::string_view characters(std::string_view text, Index begin, Index end) {
  const std::vector<std::size_t> offsets = character_offsets(text);
  const Index count = static_cast<Index>(offsets.size()) - 1;
  begin = std::clamp<Index>(begin, 0, count);
  end = std::clamp<Index>(end, begin, count);
  const std::size_t from = offsets[static_cast<std::size_t>(begin)];
  return text.substr(from, offsets[static_cast<std::size_t>(end)] - from);
}

inline std::string_view left_stripped(std::string_view text) {
  while (!text.empty()) {
    const std::size_t bytes = utf8_step(text).bytes;
    if (!is_space(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  return text;
}
inline std::string_view right_stripped(std::string_view text) {
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0U) == 0x80U) --begin;
    if (!is_space(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}
inline std::string_view stripped(std::string_view text) {
  return left_stripped(right_stripped(text));
}

/// text.split(separator)
inline std::vector<std::string> split(std::string_view text, std::string_view separator) {
  std::vector<std::string> parts;
  for (std::size_t end; (end = text.find(separator)) != std::string_view::npos;) {
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}
/// text.split(): the words between whitespace.
inline std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> all;
  bool in_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = utf8_step(text.substr(at)).bytes;
    const bool space = is_space(text.substr(at, bytes));
    if (!space && !in_word) all.emplace_back();
    if (!space) all.back() += text.substr(at, bytes);
    in_word = !space;
    at += bytes;
  }
  return all;
}
inline std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (&part != parts.data()) text += separator;
    text += part;
  }
  return text;
}
inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  return joined(split(text, from), to);
}

/// A letter in lower case: of ASCII, Latin-1, Latin Extended-A, Greek and Cyrillic; others stay.
inline std::uint32_t lower_letter(std::uint32_t c) {
  const auto in = [c](std::uint32_t first, std::uint32_t last) { return c >= first && c <= last; };
  if (in('A', 'Z')) return c + 32;
  if (in(0xc0, 0xde) && c != 0xd7) return c + 32;
  if (c == 0x178) return 0xff;
  if (in(0x100, 0x12f) || in(0x132, 0x137) || in(0x14a, 0x177)) return c | 1U;
  if (in(0x139, 0x148) || in(0x179, 0x17e)) return c + (c & 1U);
  if (c == 0x386) return 0x3ac;
  if (in(0x388, 0x38a)) return c + 37;
  if (c == 0x38c) return 0x3cc;
  if (in(0x38e, 0x38f)) return c + 63;
  if (in(0x391, 0x3ab) && c != 0x3a2) return c + 32;
  if (in(0x400, 0x40f)) return c + 80;
  if (in(0x410, 0x42f)) return c + 32;
  if (in(0x460, 0x481) || in(0x48a, 0x4bf) || in(0x4d0, 0x52f)) return c | 1U;
  return c;
}
inline std::string lower(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, utf8_step(text.substr(at)).bytes);
    at += character.size();
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(character[i]); };
    if (character.size() == 1) {
      result += static_cast<char>(lower_letter(byte(0)));
    } else if (character.size() == 2) {
      const std::uint32_t c = lower_letter(((byte(0) & 0x1fU) << 6U) | (byte(1) & 0x3fU));
      result += static_cast<char>(0xc0U | (c >> 6U));
      result += static_cast<char>(0x80U | (c & 0x3fU));
    } else {
      result += character;
    }
  }
  return result;
}
/// text[0].lower() + text[1:]
inline std::string begun_lower(std::string_view text) {
  const std::string_view first = characters(text, 0, 1);
  return lower(first) + std::string(text.substr(first.size()));
}
/// text.capitalize(), of a text that begins with ASCII: the first letter in upper case, others in
/// lower.
inline std::string capitalized(std::string_view text) {
  std::string result = lower(text);
  const std::string_view first = characters(text, 0, 1);
  if (first.size() == 1 && first[0] >= 'a' && first[0] <= 'z')
    result[0] = static_cast<char>(first[0] - 32);
  else
    result.replace(0, lower(first).size(), first);
  return result;
}

constexpr std::string_view punctuation = R"(!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~)";

/// What answers are compared as: lower case, without punctuation, articles and more than one space.
/// Source  Rajpurkar et al. 2016 (SQuAD), its evaluation script
inline std::vector<std::string> answer_words(std::string_view text) {
  std::string kept = lower(text);
  std::erase_if(kept, [](char c) { return punctuation.find(c) != std::string_view::npos; });
  std::vector<std::string> all;
  for (const std::string& word : words(kept))
    if (word != "a" && word != "an" && word != "the") all.push_back(word);
  return all;
}

/// Spaces that tokenized English has before and inside punctuation, taken out.
/// Source  lm-evaluation-harness, general_detokenize
inline std::string detokenized(std::string_view text) {
  std::string result = replaced(text, " n't", "n't");
  result = replaced(result, " )", ")");
  result = replaced(result, "( ", "(");
  result = replaced(result, "\" ", "\"");
  result = replaced(result, " \"", "\"");
  for (const char* mark : {"'", ".", ","}) result = replaced(result, std::string(" ") + mark, mark);
  return result;
}

/// The same inside what stands between two marks.
inline std::string tightened(std::string_view text, char open, char close) {
  std::string result;
  for (;;) {
    const std::size_t begin = text.find(open);
    const std::size_t end = begin == std::string_view::npos ? begin : text.find(close, begin + 1);
    if (end == std::string_view::npos) return result += text;
    result += text.substr(0, begin + 1);
    result += stripped(text.substr(begin + 1, end - begin - 1));
    result += close;
    text.remove_prefix(end + 1);
  }
}
/// A page of WikiText as it was before it was tokenized.
/// Source  lm-evaluation-harness, its WikiText task
inline std::string wikitext_page(std::string_view page) {
  std::string text = replaced(page, "s '", "s'");
  using Pair = std::array<std::string_view, 2>;
  for (const auto& [from, to] : std::array<Pair, 9>{{{" @-@ ", "-"},
                                                     {" @,@ ", ","},
                                                     {" @.@ ", "."},
                                                     {" : ", ": "},
                                                     {" ; ", "; "},
                                                     {" . ", ". "},
                                                     {" ! ", "! "},
                                                     {" ? ", "? "},
                                                     {" , ", ", "}}})
    text = replaced(text, from, to);
  text = tightened(text, '(', ')');
  text = tightened(text, '[', ']');
  text = tightened(text, '{', '}');
  text = tightened(text, '"', '"');
  text = tightened(text, '\'', '\'');
  for (const auto& [from, to] : std::array<Pair, 8>{{{"= = = =", "===="},
                                                     {"= = =", "==="},
                                                     {"= =", "=="},
                                                     {" \u00b0 ", "\u00b0"},
                                                     {" \n", "\n"},
                                                     {"\n ", "\n"},
                                                     {" N ", " 1 "},
                                                     {" 's", "'s"}}})
    text = replaced(text, from, to);
  return text;
}

}  // namespace ssm::detail
