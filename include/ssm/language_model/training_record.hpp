// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/language_model/training_recipe.hpp"

namespace ssm {

/// What a checkpoint says of the run it is part of, beside the model, whose sizes are in
/// config.json, and the optimizer.
struct TrainingRecord {
  Index step = 0;
  double seconds = 0;  // of training so far
  Index text_tokens = 0;
  std::string text_digest;
  TrainingRecipe recipe;
  TrainingLimits limits;
};

namespace detail {

inline constexpr const char* training_format = "ssm-training-1";
inline constexpr double largest_setting = std::numeric_limits<double>::max();

/// "weight-decay" → "weight_decay"
inline std::string field_of(std::string_view setting) {
  std::string name(setting);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

inline void read_setting(const JsonObject& json, const std::string& field, std::string& value) {
  value = json.text(field, value);
}
inline void read_setting(const JsonObject& json, const std::string& field, bool& value) {
  value = json.boolean(field, value);
}
inline void read_setting(const JsonObject& json, const std::string& field, double& value) {
  value = json.number(field, value, 0, largest_setting);
}
inline void read_setting(const JsonObject& json, const std::string& field, Index& value) {
  value = json.integer_or(field, value, -1);
}
inline void read_setting(const JsonObject& json, const std::string& field, std::uint64_t& value) {
  if (!json.has(field) || !json.json().at(field).is_number_unsigned())
    json.refuse(field, "must be a whole number");
  value = json.json().at(field).get<std::uint64_t>();
}

}  // namespace detail

/// trainer.json. Throws  CheckpointError
inline void write_record(const std::filesystem::path& path, const TrainingRecord& record) {
  nlohmann::ordered_json options;
  for_each_setting(record.recipe, [&](const char* name, const auto& value, const char*) {
    options[detail::field_of(name)] = value;
  });
  const TrainingLimits& limits = record.limits;
  const nlohmann::ordered_json json{
      {"format", detail::training_format},
      {"step", record.step},
      {"seconds", record.seconds},
      {"minutes", limits.minutes},
      {"steps", limits.steps},
      {"evaluate_every", limits.evaluate_every},
      {"save_every", limits.save_every},
      {"log_every", limits.log_every},
      {"keep", limits.keep},
      {"backend", limits.backend},
      {"text", {{"bytes", record.text_tokens}, {"digest", record.text_digest}}},
      {"options", options}};
  write_text_file(path, json.dump(2) + "\n");
}

/// Reads what write_record wrote.
/// Throws  CheckpointError  if the file is missing or damaged, or is of another format
inline TrainingRecord read_record(const std::filesystem::path& path) {
  const JsonObject json = read_json(path);
  if (json.text("format", "") != detail::training_format)
    json.refuse("format", std::string("must be ") + detail::training_format);
  TrainingRecord record;
  record.step = json.integer("step", 0);
  record.seconds = json.number("seconds", 0, 0, detail::largest_setting);
  record.limits.minutes = json.number("minutes", 0, 0, detail::largest_setting);
  record.limits.steps = json.integer("steps", 0);
  record.limits.evaluate_every = json.integer("evaluate_every", 0);
  record.limits.save_every = json.integer("save_every", 0);
  record.limits.log_every = json.integer("log_every", 1);
  record.limits.keep = json.integer("keep", 1);
  const JsonObject text = json.object("text");
  record.text_tokens = text.integer("bytes", 0, std::numeric_limits<std::int64_t>::max());
  record.text_digest = text.text("digest", "");
  const JsonObject options = json.object("options");
  for_each_setting(record.recipe, [&](const char* name, auto& value, const char*) {
    detail::read_setting(options, detail::field_of(name), value);
  });
  // Records before this field have it among the options.
  record.limits.backend = json.text("backend", options.text("backend", "cpu"));
  return record;
}

/// What is known of a text whose tokens have all been read.
struct TextSummary {
  std::string digest;  // tells texts apart: 16 hexadecimal digits (FNV-1a)
  Token worst = 0;     // the largest token, or one that is negative
  Index position = 0;  // where it is first
};

/// Cost    reads the text once
inline TextSummary summary_of(TokenView text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  TextSummary summary;
  const auto rank = [](Token token) { return static_cast<std::uint32_t>(token); };
  std::vector<Token> block(1 << 16);
  for (Index begin = 0; begin < text.size();) {
    const Index count = std::min(static_cast<Index>(block.size()), text.size() - begin);
    const std::span<Token> part = std::span(block).first(static_cast<std::size_t>(count));
    text.read(begin, part);
    for (std::size_t i = 0; i < part.size(); ++i) {
      hash = (hash ^ static_cast<std::uint64_t>(part[i])) * 0x100000001b3U;
      if (rank(part[i]) > rank(summary.worst)) {
        summary.worst = part[i];
        summary.position = begin + static_cast<Index>(i);
      }
    }
    begin += count;
  }
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(hash));
  summary.digest = digits.data();
  return summary;
}

/// Tells texts apart.
inline std::string digest_of(TokenView text) { return summary_of(text).digest; }

}  // namespace ssm
