// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/evaluate/task.hpp"
#include "ssm/io/json_file.hpp"

namespace ssm {
namespace detail {

inline std::vector<std::string> texts_of(const JsonObject& json, std::string_view field,
                                         std::vector<std::string> otherwise) {
  if (!json.has(field)) return otherwise;
  const nlohmann::json& list = json.json().at(std::string(field));
  std::vector<std::string> all;
  bool are_texts = list.is_array();
  for (std::size_t i = 0; are_texts && i < list.size(); ++i) {
    are_texts = list[i].is_string();
    if (are_texts) all.push_back(list[i].get<std::string>());
  }
  if (!are_texts) json.refuse(field, "must be a list of strings");
  return all;
}
template <class Value, std::size_t count>
Value named(const JsonObject& json, std::string_view field,
            const std::array<std::pair<std::string_view, Value>, count>& values) {
  const std::string name = json.text(field, values.front().first);
  std::string names;
  for (const auto& [known, value] : values) {
    if (name == known) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  json.refuse(field, "must be one of " + names);
}

}  // namespace detail

/// A task from a JSON file with the fields of EvaluationTask, those that are left out at their
/// defaults:
///   {"kind": "choices", "prompt": "{{question}}\nAnswer:", "choices": ["no", "yes"],
///    "answer": "label", "metrics": ["acc", "acc_norm"]}
/// kind is choices, continuation, text or generation; style is joint or separate. The name is that
/// of the file.
/// Throws  CheckpointError  naming the field, for what is not such a file;
///         ArgumentError    for a task that asks nothing, or counts what it does not have
inline EvaluationTask read_task(const std::filesystem::path& path) {
  const JsonObject json = read_json(path);
  json.refuse_others(
      {"kind",    "style",  "about",         "instruction", "prompt",     "choices",
       "choice",  "ending", "continuation",  "delimiter",   "separator",  "has_fixed_examples",
       "options", "answer", "answers",       "first",       "references", "group",
       "tokens",  "stop",   "answers_alone", "otherwise",   "metrics"});
  EvaluationTask task{.name = path.stem().string()};
  task.kind = detail::named<TaskKind, 4>(json, "kind",
                                         {{{"choices", TaskKind::choices},
                                           {"continuation", TaskKind::continuation},
                                           {"text", TaskKind::text},
                                           {"generation", TaskKind::generation}}});
  task.style = detail::named<ScoringStyle, 2>(
      json, "style", {{{"joint", ScoringStyle::joint}, {"separate", ScoringStyle::separate}}});
  if (task.kind == TaskKind::text) task.delimiter = "";
  for (const auto& [field, text] :
       std::array<std::pair<const char*, std::string*>, 12>{{{"about", &task.about},
                                                             {"instruction", &task.instruction},
                                                             {"prompt", &task.prompt},
                                                             {"choice", &task.choice},
                                                             {"ending", &task.ending},
                                                             {"continuation", &task.continuation},
                                                             {"delimiter", &task.delimiter},
                                                             {"separator", &task.separator},
                                                             {"options", &task.options},
                                                             {"answer", &task.answer},
                                                             {"references", &task.references},
                                                             {"group", &task.group}}})
    *text = json.text(field, *text);
  task.choices = detail::texts_of(json, "choices", {});
  task.answers = detail::texts_of(json, "answers", {});
  task.stop = detail::texts_of(json, "stop", task.stop);
  const bool is_text = task.kind == TaskKind::text;
  const bool is_written = task.kind == TaskKind::generation && task.choices.empty();
  const std::string metric = is_text ? "word_perplexity" : is_written ? "exact_match" : "acc";
  task.metrics = detail::texts_of(json, "metrics", {metric});
  task.has_fixed_examples = json.boolean("has_fixed_examples", false);
  task.answers_alone = json.boolean("answers_alone", false);
  task.first = json.integer_or("first", 0, 0, 1000);
  task.tokens = json.integer_or("tokens", task.tokens, 1, 1 << 20);
  task.otherwise = json.integer_or("otherwise", -1, -1, 1000);
  task.require_valid();
  return task;
}

}  // namespace ssm
