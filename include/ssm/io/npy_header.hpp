// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "ssm/io/stored_scalar.hpp"  // checked_size, printable

namespace ssm {

/// What a .npy file says of its array.
struct NpyHeader {
  std::string dtype;           // "<f4", "<i8", "|u1", …, or another the library cannot read
  bool fortran_order = false;  // first axis contiguous
  std::vector<Index> shape;
};

namespace detail {

inline constexpr std::size_t npy_axes = 32;  // numpy's own limit

/// Parses the Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } and
/// nothing else.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  NpyHeader parse() {
    std::optional<std::string> dtype;
    std::optional<bool> fortran_order;
    std::optional<std::vector<Index>> shape;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !dtype) {
        dtype = quoted();
      } else if (key == "fortran_order" && !fortran_order) {
        fortran_order = boolean();
      } else if (key == "shape" && !shape) {
        shape = tuple();
      } else {
        refuse("key '" + printable(key) + "' is unknown or occurs twice");
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (!text_.empty()) refuse("goes on after its end");
    if (!dtype || !fortran_order || !shape) refuse("lacks descr, fortran_order or shape");
    return {.dtype = *dtype, .fortran_order = *fortran_order, .shape = *shape};
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw CheckpointError(file_, "", "npy header " + what);
  }
  void skip_space() {
    const std::size_t start = text_.find_first_not_of(" \t\r\n");
    text_.remove_prefix(start == std::string_view::npos ? text_.size() : start);
  }
  bool accept(char c) {
    skip_space();
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) refuse(std::string("has no '") + c + "' where there must be one");
  }
  std::string quoted() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'' && !accept('\'')) refuse("has no text where there must be one");
    const std::size_t end = text_.find(quote);
    if (end == std::string_view::npos) refuse("has a text without an end");
    const std::string value(text_.substr(0, end));
    if (value.find('\\') != std::string::npos) refuse("has an escape in a text");
    text_.remove_prefix(end + 1);
    return value;
  }
  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"}) {
      if (!text_.starts_with(word)) continue;
      text_.remove_prefix(word.size());
      return word == "True";
    }
    refuse("has a fortran_order that is neither True nor False");
  }
  std::vector<Index> tuple() {
    std::vector<Index> extents;
    bool comma = true;
    expect('(');
    while (!accept(')')) {
      if (!comma || extents.size() == npy_axes) refuse("has a shape that is no tuple");
      extents.push_back(number());
      comma = accept(',');
    }
    if (extents.size() == 1 && !comma) refuse("has a shape that is no tuple");
    return extents;
  }
  Index number() {
    skip_space();
    Index value = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0) refuse("has an extent that is not a size");
    text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
    if (text_.starts_with('L')) text_.remove_prefix(1);  // written by Python 2
    return value;
  }

  std::string_view text_;
  const std::string& file_;
};

}  // namespace detail

/// Reads the literal in the header of a .npy file.
/// Throws  CheckpointError  if it is not as the format says; `file` names the file in the message
inline NpyHeader parse_npy_header(std::string_view text, const std::string& file) {
  return detail::NpyHeaderParser(text, file).parse();
}

}  // namespace ssm
