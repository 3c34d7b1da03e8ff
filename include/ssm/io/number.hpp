// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>

#include "ssm/io/file.hpp"  // printable

namespace ssm {

/// A number that a person wrote, or why there is none.
///   const auto seed = parse_whole_number<std::uint64_t>(text);
///   if (!seed) throw ArgumentError("--seed " + seed.complaint);
template <class T>
struct ParsedNumber {
  T value{};
  std::string
      complaint{};  // "is empty", "'1e3' is no whole number", …; empty where there is a number

  explicit operator bool() const { return complaint.empty(); }
};

namespace detail {

struct Digits {
  bool is_negative = false;
  std::string_view digits{};  // no sign, no zeros in front; empty for what is no whole number
};

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

inline std::size_t count_digits(std::string_view text) {
  std::size_t count = 0;
  while (count < text.size() && is_digit(text[count])) ++count;
  return count;
}

inline Digits digits_of(std::string_view text) {
  const bool has_sign = text.starts_with('-') || text.starts_with('+');
  Digits result{.is_negative = text.starts_with('-'), .digits = text.substr(has_sign ? 1 : 0)};
  if (count_digits(result.digits) < result.digits.size()) return {};
  while (result.digits.size() > 1 && result.digits.front() == '0') result.digits.remove_prefix(1);
  return result;
}

inline std::string quoted(std::string_view text) { return "'" + printable(text) + "'"; }

/// digits, digits.digits, .digits or digits. with a sign and an exponent where wanted
inline bool is_decimal(std::string_view text) {
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  const std::size_t whole = count_digits(text);
  text.remove_prefix(whole);
  std::size_t fraction = 0;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    fraction = count_digits(text);
    text.remove_prefix(fraction);
  }
  if (whole + fraction == 0) return false;
  if (text.empty()) return true;
  if (text.front() != 'e' && text.front() != 'E') return false;
  text.remove_prefix(1);
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return !text.empty() && count_digits(text) == text.size();
}

}  // namespace detail

/// The whole number that a text is, from `least` to `most`: decimal digits with or without a sign,
/// and nothing else. Nothing wraps or is brought into the range: 2⁶⁴ is no seed, nor is −1.
///   "12"  → 12
///   ""    → "is empty"
///   "1e3" → "'1e3' is no whole number"
///   "-1"  → "'-1' is less than 0"
template <std::integral T>
ParsedNumber<T> parse_whole_number(std::string_view text, T least = std::numeric_limits<T>::min(),
                                   T most = std::numeric_limits<T>::max()) {
  if (text.empty()) return {.complaint = "is empty"};
  const auto [is_negative, digits] = detail::digits_of(text);
  if (digits.empty()) return {.complaint = detail::quoted(text) + " is no whole number"};
  const auto too_small = [&] {
    return ParsedNumber<T>{.complaint =
                               detail::quoted(text) + " is less than " + std::to_string(least)};
  };
  const auto too_large = [&] {
    return ParsedNumber<T>{.complaint =
                               detail::quoted(text) + " is more than " + std::to_string(most)};
  };
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<T>::max());
  const std::uint64_t limit = is_negative ? (std::signed_integral<T> ? largest + 1 : 0U) : largest;
  std::uint64_t magnitude = 0;
  for (const char c : digits) {
    const auto digit = static_cast<std::uint64_t>(c - '0');
    if (digit > limit || magnitude > (limit - digit) / 10)
      return is_negative ? too_small() : too_large();
    magnitude = 10 * magnitude + digit;
  }
  const T value = static_cast<T>(is_negative ? 0U - magnitude : magnitude);
  if (value < least) return too_small();
  if (value > most) return too_large();
  return {.value = value};
}

/// The number that a text is, from `least` to `most`: in decimal, with or without an exponent;
/// never infinite, never NaN.
///   "1e-3"  → 0.001
///   ""      → "is empty"
///   "nan"   → "'nan' is no number"
///   "1e999" → "'1e999' is too large"
inline ParsedNumber<double> parse_number(std::string_view text,
                                         double least = std::numeric_limits<double>::lowest(),
                                         double most = std::numeric_limits<double>::max()) {
  if (text.empty()) return {.complaint = "is empty"};
  if (!detail::is_decimal(text)) return {.complaint = detail::quoted(text) + " is no number"};
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  double value = 0;
  // Libraries differ in whether a number that is all but zero is a failure.
  if (!(stream >> value) && std::abs(value) > 1)
    return {.complaint = detail::quoted(text) + " is too large"};
  const auto shown = [](double bound) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out << bound;
    return out.str();
  };
  if (value < least) return {.complaint = detail::quoted(text) + " is less than " + shown(least)};
  if (value > most) return {.complaint = detail::quoted(text) + " is more than " + shown(most)};
  return {.value = value};
}

}  // namespace ssm
