// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/core/scalar.hpp"  // Token
#include "ssm/io/json_file.hpp"

namespace ssm::detail {

/// The tokens behind which a text is at its end: `eos_token_id` of a config.json, one or a list.
/// Configs also name tokens that their vocabulary does not have; those never occur and do no harm.
/// Throws  CheckpointError  for what is neither a token nor a list of tokens
inline std::vector<Token> end_tokens_of(const JsonObject& json) {
  constexpr const char* field = "eos_token_id";
  if (!json.has(field)) return {};
  std::vector<Token> tokens;
  const auto add = [&](std::int64_t token) {
    if (token < 0) return;  // −1 is how some say that there is none
    const auto value = static_cast<Token>(token);
    if (std::find(tokens.begin(), tokens.end(), value) == tokens.end()) tokens.push_back(value);
  };
  if (json.json().at(field).is_array()) {
    for (const std::int64_t token : json.integers(field, -1)) add(token);
  } else {
    add(json.integer(field, -1));
  }
  return tokens;
}

/// Those of a folder whose config.json is given. A generation_config.json beside it that names end
/// tokens has the last word, as transformers reads it.
inline std::vector<Token> end_tokens_in(const std::filesystem::path& folder,
                                        const JsonObject& config) {
  const std::filesystem::path file = folder / "generation_config.json";
  std::error_code error;
  if (std::filesystem::exists(file, error)) {
    const JsonObject generation = read_json(file);
    if (generation.has("eos_token_id")) return end_tokens_of(generation);
  }
  return end_tokens_of(config);
}

/// A config with its end tokens, in the form in which they are read.
inline nlohmann::ordered_json with_end_tokens(nlohmann::ordered_json config,
                                              const std::vector<Token>& tokens) {
  if (tokens.size() == 1)
    config["eos_token_id"] = tokens.front();
  else if (!tokens.empty())
    config["eos_token_id"] = tokens;
  return config;
}

}  // namespace ssm::detail
