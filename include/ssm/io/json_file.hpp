// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"
#include "ssm/io/json_parser.hpp"

namespace ssm {

/// A JSON object from outside, read field by field; each complaint names the file and the field.
///   const JsonObject config = read_json("config.json");
///   const auto width = config.integer("d_model", 1);             // must be there, at least 1
///   const auto eps = config.number("layer_norm_epsilon", 1e-5);  // 1e-5 where left out or null
/// Throws  CheckpointError
class JsonObject {
 public:
  JsonObject(std::string file, nlohmann::json value, std::string name = "")
      : file_(std::move(file)), name_(std::move(name)), value_(std::move(value)) {
    if (!value_.is_object()) throw CheckpointError(file_, "", title() + "must be a JSON object");
  }

  const std::string& file() const { return file_; }
  const nlohmann::json& json() const { return value_; }
  bool has(std::string_view field) const {
    const auto found = value_.find(field);
    return found != value_.end() && !found->is_null();
  }

  /// 24, or 24.0, which some programs write.
  std::int64_t integer(std::string_view field, std::int64_t least,
                       std::int64_t most = largest) const {
    const auto result = whole_number(at(field));
    if (!result || *result < least || *result > most)
      refuse(field, "must be an integer from " + range_text(least, most));
    return *result;
  }
  std::int64_t integer_or(std::string_view field, std::int64_t otherwise, std::int64_t least,
                          std::int64_t most = largest) const {
    return has(field) ? integer(field, least, most) : otherwise;
  }
  /// A list of integers; an empty one where it is left out or null.
  std::vector<std::int64_t> integers(std::string_view field, std::int64_t least,
                                     std::int64_t most = largest) const {
    std::vector<std::int64_t> all;
    if (!has(field)) return all;
    const std::string what = "must be a list of integers from " + range_text(least, most);
    if (!at(field).is_array()) refuse(field, what);
    for (const nlohmann::json& entry : at(field)) {
      const auto result = whole_number(entry);
      if (!result || *result < least || *result > most) refuse(field, what);
      all.push_back(*result);
    }
    return all;
  }
  /// Infinite where `least` or `most` is; never NaN.
  double number(std::string_view field, double otherwise, double least, double most) const {
    if (!has(field)) return otherwise;
    const nlohmann::json& value = at(field);
    const double result = value.is_number() ? value.get<double>() : 0;
    if (!value.is_number() || !(result >= least && result <= most))
      refuse(field, "must be a number from " + number_text(least) + " to " + number_text(most));
    return result;
  }
  bool boolean(std::string_view field, bool otherwise) const {
    if (!has(field)) return otherwise;
    if (!at(field).is_boolean()) refuse(field, "must be true or false");
    return at(field).get<bool>();
  }
  std::string text(std::string_view field, std::string_view otherwise) const {
    if (!has(field)) return std::string(otherwise);
    if (!at(field).is_string()) refuse(field, "must be a string");
    return at(field).get<std::string>();
  }
  JsonObject object(std::string_view field) const {
    return {file_, has(field) ? at(field) : nlohmann::json::object(), full_name(field)};
  }

  /// Refuses every field but these, unless it says nothing: null, false, 0 or an empty list.
  void refuse_others(std::initializer_list<std::string_view> known) const {
    for (const auto& [field, value] : value_.items()) {
      const bool says_nothing = value.is_null() || value == false || value == 0 || value.empty();
      if (!says_nothing && std::find(known.begin(), known.end(), field) == known.end())
        refuse(field, "is not supported");
    }
  }
  [[noreturn]] void refuse(std::string_view field, const std::string& what) const {
    throw CheckpointError(file_, "", "'" + detail::printable(full_name(field)) + "' " + what);
  }

  static constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();

 private:
  const nlohmann::json& at(std::string_view field) const {
    const auto found = value_.find(field);
    if (found == value_.end()) refuse(field, "is missing");
    return *found;
  }
  /// The value of a whole number that an integer holds, if it is one.
  static std::optional<std::int64_t> whole_number(const nlohmann::json& value) {
    constexpr double exact = 9007199254740992.0;  // 2^53: every whole number up to it is one double
    if (value.is_number_unsigned()) {
      const auto number = value.get<std::uint64_t>();
      if (!std::in_range<std::int64_t>(number)) return std::nullopt;
      return static_cast<std::int64_t>(number);
    }
    if (value.is_number_integer()) return value.get<std::int64_t>();
    const double number = value.is_number_float() ? value.get<double>() : 0.5;
    if (!(number >= -exact && number <= exact) || std::floor(number) != number) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  static std::string range_text(std::int64_t least, std::int64_t most) {
    return std::to_string(least) + " to " + std::to_string(most);
  }
  static std::string number_text(double value) {
    if (std::isinf(value)) return value < 0 ? "-infinity" : "infinity";
    return nlohmann::json(value).dump();
  }
  std::string full_name(std::string_view field) const {
    return (name_.empty() ? std::string() : name_ + ".") + std::string(field);
  }
  std::string title() const { return name_.empty() ? "" : "'" + name_ + "' "; }

  std::string file_;
  std::string name_;
  nlohmann::json value_;
};

/// The whole of a small file.
/// Throws  CheckpointError  if it cannot be read or is larger than `limit` bytes
inline std::string read_text_file(const std::filesystem::path& path, std::uint64_t limit) {
  const FileReader file(path);
  if (file.size() > limit)
    throw CheckpointError(file.name(), "", "is larger than " + std::to_string(limit) + " bytes");
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

/// A JSON object from a text; `file` names it in messages.
/// Throws  CheckpointError  as read_json
inline JsonObject parse_json(std::string_view text, const std::string& file) {
  return {file, parse_json_value(text, file)};
}

/// Numbers may be NaN, Infinity and -Infinity, which Python writes.
/// Throws  CheckpointError  unless the file holds one JSON object of at most `limit` bytes, nested
///                          32 deep at most, with no field twice
inline JsonObject read_json(const std::filesystem::path& path, std::uint64_t limit = 1 << 20) {
  return parse_json(read_text_file(path, limit), path.string());
}

/// Writes text as a file, as a whole or not at all.
inline void write_text_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text.data(), text.size())));
  file.commit();
}

}  // namespace ssm
