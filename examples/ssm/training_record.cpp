// SPDX-License-Identifier: Apache-2.0
#include "training_record.hpp"

#include <array>
#include <cstdio>
#include <limits>
#include <type_traits>

#include "ssm/io/json_file.hpp"

namespace ssm::cli {
namespace {

constexpr const char* format = "ssm-training-1";
constexpr double largest = std::numeric_limits<double>::max();

/// "--weight-decay" → "weight_decay"
std::string field_of(std::string_view flag) {
  std::string name(flag.substr(2));
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}

void read_option(const JsonObject& json, const std::string& field, std::string& value) {
  value = json.text(field, value);
}
void read_option(const JsonObject& json, const std::string& field, double& value) {
  value = json.number(field, value, 0, largest);
}
void read_option(const JsonObject& json, const std::string& field, Index& value) {
  value = json.integer(field, 0);
}
void read_option(const JsonObject& json, const std::string& field, std::uint64_t& value) {
  if (!json.has(field) || !json.json().at(field).is_number_unsigned())
    json.refuse(field, "must be a whole number");
  value = json.json().at(field).get<std::uint64_t>();
}
void read_option(const JsonObject& json, const std::string& field, std::vector<Index>& value) {
  if (!json.has(field) || !json.json().at(field).is_array()) json.refuse(field, "must be a list");
  value.clear();
  for (const nlohmann::json& entry : json.json().at(field)) {
    if (!entry.is_number_unsigned()) json.refuse(field, "must be a list of whole numbers");
    value.push_back(entry.get<Index>());
  }
}

}  // namespace

void write_record(const std::filesystem::path& path, const TrainingRecord& record) {
  nlohmann::ordered_json options;
  TrainingRecipe recipe = record.recipe;
  for_each_option(recipe, [&](const char* flag, const auto& value, const char*) {
    options[field_of(flag)] = value;
  });
  const nlohmann::ordered_json json{
      {"format", format},
      {"step", record.step},
      {"seconds", record.seconds},
      {"minutes", record.limits.minutes},
      {"steps", record.limits.steps},
      {"evaluate_every", record.limits.evaluate_every},
      {"save_every", record.limits.save_every},
      {"log_every", record.limits.log_every},
      {"keep", record.limits.keep},
      {"text", {{"bytes", record.text_bytes}, {"digest", record.text_digest}}},
      {"options", options}};
  write_text_file(path, json.dump(2) + "\n");
}

TrainingRecord read_record(const std::filesystem::path& path) {
  const JsonObject json = read_json(path);
  if (json.text("format", "") != format) json.refuse("format", std::string("must be ") + format);
  TrainingRecord record;
  record.step = json.integer("step", 0);
  record.seconds = json.number("seconds", 0, 0, largest);
  record.limits.minutes = json.number("minutes", 0, 0, largest);
  record.limits.steps = json.integer("steps", 0);
  record.limits.evaluate_every = json.integer("evaluate_every", 0);
  record.limits.save_every = json.integer("save_every", 0);
  record.limits.log_every = json.integer("log_every", 1);
  record.limits.keep = json.integer("keep", 1);
  const JsonObject text = json.object("text");
  record.text_bytes = text.integer("bytes", 0, std::numeric_limits<std::int64_t>::max());
  record.text_digest = text.text("digest", "");
  const JsonObject options = json.object("options");
  for_each_option(record.recipe, [&](const char* flag, auto& value, const char*) {
    read_option(options, field_of(flag), value);
  });
  return record;
}

std::string digest_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(hash));
  return digits.data();
}

}  // namespace ssm::cli
