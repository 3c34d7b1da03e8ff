// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"  // Index
#include "ssm/io/file.hpp"     // CheckpointError, printable

namespace ssm {

/// An entry of a data set: a JSON object whose fields must be there and of their kind. Complaints
/// name the place and the field.
///   const ItemFields item("val.jsonl, line 3", parse_json_value(line, "val.jsonl, line 3"));
///   const std::string question = item.text("question");
/// Throws  CheckpointError
class ItemFields {
 public:
  ItemFields(std::string place, nlohmann::json value, std::string name = "")
      : place_(std::move(place)), name_(std::move(name)), value_(std::move(value)) {
    if (!value_.is_object())
      throw CheckpointError(
          place_, "", name_.empty() ? "is no JSON object" : quoted(name_) + " must be an object");
  }

  const std::string& place() const { return place_; }
  const nlohmann::json& json() const { return value_; }
  bool has(std::string_view field) const {
    const auto found = value_.find(field);
    return found != value_.end() && !found->is_null();
  }
  bool is_object(std::string_view field) const { return has(field) && at(field).is_object(); }
  bool is_text(std::string_view field) const { return has(field) && at(field).is_string(); }

  std::string text(std::string_view field) const {
    if (!at(field).is_string()) refuse(field, "must be a string");
    return at(field).get<std::string>();
  }
  /// A string, a number or a truth value as it is written: "yes", "3", "true".
  std::string word(std::string_view field) const {
    const nlohmann::json& value = at(field);
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_number() && !value.is_boolean())
      refuse(field, "must be a string, a number or true or false");
    return value.dump();
  }
  Index whole_number(std::string_view field, Index least, Index most) const {
    const nlohmann::json& value = at(field);
    const bool is_small =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62U);
    if (!is_small || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
      refuse(field, "must be a whole number from " + std::to_string(least) + " to " +
                        std::to_string(most));
    return value.get<Index>();
  }
  /// At least one string.
  std::vector<std::string> texts(std::string_view field) const {
    std::vector<std::string> all;
    if (!at(field).is_array() || at(field).empty()) refuse(field, "must be a list of strings");
    for (const nlohmann::json& entry : at(field)) {
      if (!entry.is_string()) refuse(field, "must be a list of strings");
      all.push_back(entry.get<std::string>());
    }
    return all;
  }
  ItemFields object(std::string_view field) const { return {place_, at(field), full_name(field)}; }
  std::vector<ItemFields> objects(std::string_view field) const {
    std::vector<ItemFields> all;
    if (!at(field).is_array()) refuse(field, "must be a list");
    for (const nlohmann::json& entry : at(field))
      all.emplace_back(place_, entry, full_name(field) + "[" + std::to_string(all.size()) + "]");
    return all;
  }

  [[noreturn]] void refuse(std::string_view field, const std::string& what) const {
    throw CheckpointError(place_, "", quoted(full_name(field)) + " " + what);
  }

 private:
  static std::string quoted(const std::string& name) { return "'" + detail::printable(name) + "'"; }
  const nlohmann::json& at(std::string_view field) const {
    const auto found = value_.find(field);
    if (found == value_.end()) refuse(field, "is missing");
    return *found;
  }
  std::string full_name(std::string_view field) const {
    return (name_.empty() ? std::string() : name_ + ".") + std::string(field);
  }

  std::string place_;
  std::string name_;
  nlohmann::json value_;
};

}  // namespace ssm
