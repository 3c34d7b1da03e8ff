// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/file.hpp"

namespace ssm {

/// A JSON object from outside, read field by field; each complaint names the file and the field.
///   const JsonObject config = read_json("config.json");
///   const auto width = config.integer("d_model", 1);                    // must be there, at least 1
///   const auto eps = config.number("layer_norm_epsilon", 1e-5);         // 1e-5 where it is left out or null
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

  std::int64_t integer(std::string_view field, std::int64_t least,
                       std::int64_t most = largest) const {
    const nlohmann::json& value = at(field);
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() &&
                        value.get<std::uint64_t>() >
                            std::uint64_t{most < 0 ? 0U : static_cast<std::uint64_t>(most)});
    const std::int64_t result = fits ? value.get<std::int64_t>() : 0;
    if (!fits || result < least || result > most)
      refuse(field,
             "must be an integer from " + std::to_string(least) + " to " + std::to_string(most));
    return result;
  }
  std::int64_t integer_or(std::string_view field, std::int64_t otherwise, std::int64_t least,
                          std::int64_t most = largest) const {
    return has(field) ? integer(field, least, most) : otherwise;
  }
  double number(std::string_view field, double otherwise, double least, double most) const {
    if (!has(field)) return otherwise;
    const nlohmann::json& value = at(field);
    const double result = value.is_number() ? value.get<double>() : 0;
    if (!value.is_number() || !(result >= least && result <= most))
      refuse(field, "must be a number from " + nlohmann::json(least).dump() + " to " +
                        nlohmann::json(most).dump());
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

namespace detail {

/// Watches a JSON text as it is parsed. Readers disagree on which of two fields of one name counts, so there may be one.
class JsonWatch {
 public:
  explicit JsonWatch(const std::string& file) : file_(file) {}

  /// Throws  CheckpointError  if it is nested deeper than 32, or names a field of an object twice
  void operator()(int depth, nlohmann::json::parse_event_t event, const nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > deepest) throw CheckpointError(file_, "", "is nested too deeply");
    if (event == Event::object_start) {
      open_.emplace_back();
    } else if (event == Event::object_end) {
      open_.pop_back();
    } else if (event == Event::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(name).second)
        throw CheckpointError(file_, "", "'" + printable(name) + "' occurs twice");
    }
  }

 private:
  static constexpr int deepest = 32;

  const std::string& file_;
  std::vector<std::set<std::string>>
      open_;  // the names so far of every object that is not at its end
};

}  // namespace detail

/// A JSON object from a text; `file` names it in messages.
/// Throws  CheckpointError  as read_json
inline JsonObject parse_json(std::string_view text, const std::string& file) {
  // The JSON library takes a zero byte for the end and would not look at what follows.
  if (text.find('\0') != std::string_view::npos) throw CheckpointError(file, "", "has a zero byte");
  detail::JsonWatch watch(file);
  const auto watched = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    watch(depth, event, parsed);
    return true;
  };
  try {
    return {file, nlohmann::json::parse(text, watched)};
  } catch (const nlohmann::json::parse_error& error) {
    throw CheckpointError(file, "", "is not JSON at byte " + std::to_string(error.byte));
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError(file, "", "is not JSON that can be represented");
  }
}

/// Throws  CheckpointError  unless the file holds one JSON object of at most `limit` bytes, nested 32 deep at most, with no
///         field twice
inline JsonObject read_json(const std::filesystem::path& path, std::uint64_t limit = 1 << 20) {
  return parse_json(read_text_file(path, limit), path.string());
}

/// Writes text as a file, as a whole or not at all.
inline void write_text_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace ssm
