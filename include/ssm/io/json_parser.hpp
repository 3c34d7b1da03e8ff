// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"  // CheckpointError, printable

namespace ssm {
namespace detail {

/// NaN, Infinity and -Infinity, which Python writes for numbers that JSON has no form for, as
/// numbers that are spelled as nothing else in the text is: the parser below tells them by it.
/// Every byte stays where it is.
inline std::string with_spelled_infinities(std::string_view json) {
  constexpr std::string_view word_characters =
      "0123456789+-._abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string text(json);
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at)
        if (text[at] == '\\') ++at;
      ++at;
      continue;
    }
    const std::size_t end = std::min(text.find_first_not_of(word_characters, at), text.size());
    const std::string_view word = json.substr(at, end - at);
    if (word == "NaN") {
      text.replace(at, 3, "0e0");
    } else if (word == "Infinity") {
      text.replace(at, 8, "0e000000");
    } else if (word == "-Infinity") {
      text.replace(at, 9, "-0e000000");
    } else if (word == "0e0" || word == "-0e0" || word == "0e000000" || word == "-0e000000") {
      text[at + word.find('e')] = '.';  // the same number in another spelling
    }
    at = std::max(end, at + 1);
  }
  return text;
}

/// Builds a JSON value token by token. Readers disagree on which of two fields of one name counts,
/// so there may be one.
/// Throws  CheckpointError  if it is nested deeper than 32, or names a field of an object twice, or
///                          is not JSON
class JsonBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonBuilder(const std::string& file) : file_(file) {}
  nlohmann::json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& spelling) override {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (spelling == "0e0") value = std::numeric_limits<double>::quiet_NaN();
    if (spelling == "0e000000") value = infinity;
    if (spelling == "-0e000000") value = -infinity;
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { refuse("is not JSON"); }  // not in texts
  bool start_object(std::size_t) override { return open(nlohmann::json::object()); }
  bool start_array(std::size_t) override { return open(nlohmann::json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) refuse("'" + printable(name) + "' occurs twice");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    constexpr int out_of_range = 4;  // hundreds of the library's error numbers
    refuse(error.id / 100 == out_of_range ? "is not JSON that can be represented"
                                          : "is not JSON at byte " + std::to_string(position));
  }

 private:
  static constexpr std::size_t deepest = 32;

  [[noreturn]] void refuse(const std::string& what) const {
    throw CheckpointError(file_, "", what);
  }
  nlohmann::json& place(nlohmann::json&& value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return (*open_.back())[key_] = std::move(value);
    open_.back()->push_back(std::move(value));
    return open_.back()->back();
  }
  bool add(nlohmann::json value) {
    place(std::move(value));
    return true;
  }
  bool open(nlohmann::json&& value) {
    if (open_.size() == deepest) refuse("is nested too deeply");
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& file_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;  // what is not at its end, the outermost first
  std::string key_;
};

}  // namespace detail

/// A JSON value from a text; `file` names it in messages. The numbers NaN, Infinity and -Infinity
/// are read as Python's json module writes them.
/// Throws  CheckpointError  if it is not JSON, is nested deeper than 32, or names a field of an
///                          object twice
inline nlohmann::json parse_json_value(std::string_view json, const std::string& file) {
  // The JSON library takes a zero byte for the end and would not look at what follows.
  if (json.find('\0') != std::string_view::npos) throw CheckpointError(file, "", "has a zero byte");
  const std::string text = detail::with_spelled_infinities(json);
  detail::JsonBuilder builder(file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace ssm
