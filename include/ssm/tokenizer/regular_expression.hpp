// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/core/error.hpp"

namespace ssm::detail {

/// Says a pattern of a tokenizer file, which is in the syntax of Oniguruma, in that of PCRE2. Only
/// what means the same in both, or can be made to, is let through.
/// Throws  ArgumentError  naming what is not supported
class PatternTranslation {
 public:
  explicit PatternTranslation(std::string_view pattern) : in_(pattern) {
    while (at_ < in_.size()) in_class_ ? element() : part();
    if (in_class_) refuse("[");
  }
  std::string take() { return std::move(out_); }

 private:
  static constexpr std::string_view spaces = R"(\x{9}-\x{d}\x{85}\p{Z})";

  [[noreturn]] void refuse(std::string_view what) const {
    throw ArgumentError("regular expression: '" + std::string(what) + "' is not supported");
  }
  bool starts_with(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(std::size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }

  void part() {
    switch (in_[at_]) {
      case '\\':
        return escape();
      case '[':
        in_class_ = true;
        copy(1);
        if (starts_with("^")) copy(1);
        if (starts_with("]")) refuse("[]");
        return;
      case '(':
        return group();
      case '^':
      case '$':
      case '#':
        if (in_[at_] != '#') refuse(in_.substr(at_, 1));
        return copy(1);
      case '{':
        return counts();
      default:
        return copy(1);
    }
  }
  void group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (starts_with(known)) return copy(known.size());
    if (starts_with("(?") || starts_with("(*")) refuse(in_.substr(at_, 4));
    copy(1);
  }
  /// {2}, {2,} or {2,3}, greedy or lazy.
  void counts() {
    const std::size_t end = in_.find('}', at_);
    const std::string_view text = in_.substr(at_, end == in_.npos ? end : end - at_ + 1);
    const std::string_view inside =
        text.size() > 2 ? text.substr(1, text.size() - 2) : std::string_view();
    if (end == in_.npos || inside.empty() || inside.front() == ',' ||
        inside.find_first_not_of("0123456789,") != inside.npos || text.size() > 10)
      refuse(text.substr(0, 10));
    copy(text.size());
    if (starts_with("+")) refuse(std::string(text) + "+");
  }
  void escape() {
    if (at_ + 1 == in_.size()) refuse("\\");
    const char c = in_[at_ + 1];
    if (c == 's' || c == 'S') {
      const std::string brackets = c == 's' ? "[" : "[^";
      if (in_class_ && c == 'S') refuse("\\S in [ ]");
      out_ += in_class_ ? std::string(spaces) : brackets + std::string(spaces) + "]";
      at_ += 2;
    } else if (c == 'd' || c == 'D') {
      out_ += c == 'd' ? "\\p{Nd}" : "\\P{Nd}";
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      const std::size_t end = in_.find('}', at_);
      if (end == in_.npos || in_[at_ + 2] != '{' || end - at_ > 24) refuse(in_.substr(at_, 3));
      copy(end - at_ + 1);
    } else if (c == 'n' || c == 'r' || c == 't' || c == 'f' || c == 'v') {
      out_ += c == 'v' ? "\\x{b}" : std::string(in_.substr(at_, 2));
      at_ += 2;
    } else if (static_cast<unsigned char>(c) < 0x80 &&
               std::string_view("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
                       .find(c) == std::string_view::npos) {
      copy(2);
    } else {
      refuse(in_.substr(at_, 2));
    }
  }
  void element() {
    if (in_[at_] == '\\') return escape();
    if (in_[at_] == '[') refuse("[ in [ ]");
    if (starts_with("&&")) refuse("&&");
    if (in_[at_] == ']') in_class_ = false;
    copy(1);
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  bool in_class_ = false;
};

/// A pattern of a tokenizer file, compiled; a copy shares the compiled form and may be used by
/// another thread.
/// Throws  ArgumentError  for a pattern that is not supported, or could match nothing at all
class RegularExpression {
 public:
  explicit RegularExpression(std::string_view pattern) {
    const std::string translated = PatternTranslation(pattern).take();
    int error = 0;
    std::size_t offset = 0;
    code_.reset(
        ::pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(translated.data()), translated.size(),
                          PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr),
        &::pcre2_code_free_8);
    if (!code_) {
      std::array<unsigned char, 200> text{};
      ::pcre2_get_error_message_8(error, text.data(), text.size());
      throw ArgumentError("regular expression: " +
                          std::string(reinterpret_cast<const char*>(text.data())));
    }
    std::uint32_t matches_nothing = 0;
    ::pcre2_pattern_info_8(code_.get(), PCRE2_INFO_MATCHEMPTY, &matches_nothing);
    if (matches_nothing != 0)
      throw ArgumentError(
          "regular expression: a pattern that matches an empty text is not "
          "supported");
    ::pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE);  // where the machine has it
    make_match();
  }
  RegularExpression(const RegularExpression& other) : code_(other.code_) { make_match(); }
  RegularExpression(RegularExpression&&) noexcept = default;
  RegularExpression& operator=(const RegularExpression&) = delete;
  RegularExpression& operator=(RegularExpression&&) noexcept = default;
  ~RegularExpression() = default;

  /// The first match from `begin` on, as its begin and end.
  /// Throws  ArgumentError  where matching takes too long
  std::optional<std::pair<std::size_t, std::size_t>> find(std::string_view text,
                                                          std::size_t begin) const {
    const int count =
        ::pcre2_match_8(code_.get(), reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), begin,
                        PCRE2_NO_UTF_CHECK, match_.get(), nullptr);
    if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (count < 0)
      throw ArgumentError("regular expression: a match takes too long (PCRE2 error " +
                          std::to_string(count) + ")");
    const std::size_t* ends = ::pcre2_get_ovector_pointer_8(match_.get());
    return std::pair(ends[0], ends[1]);
  }

 private:
  struct FreeMatch {
    void operator()(::pcre2_match_data_8* match) const { ::pcre2_match_data_free_8(match); }
  };
  void make_match() {
    match_.reset(::pcre2_match_data_create_8(1, nullptr));
    if (!match_) throw OutOfMemory(sizeof(void*), "host");
  }

  std::shared_ptr<::pcre2_code_8> code_;
  std::unique_ptr<::pcre2_match_data_8, FreeMatch> match_;
};

}  // namespace ssm::detail
