// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/evaluate/text.hpp"
#include "ssm/io/item_fields.hpp"

namespace ssm {

/// What a model is asked to do with an item.
enum class TaskKind {
  choices,       // which of several continuations is the likeliest
  continuation,  // how likely the one continuation is, and whether it is what the model would say
  text,          // how likely a whole text is
  generation,    // what it writes
};

/// How continuations become tokens and scores.
enum class ScoringStyle {
  /// Prompt and continuation are encoded together; the score is the sum of log-probabilities; a
  /// prompt that is too long loses its beginning. As lm-evaluation-harness.
  joint,
  /// The prompt is stripped of whitespace, a continuation is a space and the stripped text, encoded
  /// by itself; the score is the mean log-probability of a token; a prompt that is too long loses
  /// its end. As H3's evaluation on SuperGLUE.
  separate,
};

/// One thing that a model is asked.
struct EvaluationItem {
  std::map<std::string, std::string> fields{};  // what templates name
  std::vector<std::string> options{};           // where each item has its own
  Index answer = 0;                             // which choice is right
  std::vector<std::string> references{};        // texts that are right
  std::string group{};                          // items of one group count together
  std::string place{};                          // "val.jsonl, line 3"
};

/// What is asked of a model, how, of which data, and what is counted. Templates are texts in which
/// {{name}} stands for a field of the item.
///   EvaluationTask task{.name = "colors", .prompt = "{{question}}\nAnswer:",
///                       .choices = {"{{first}}", "{{second}}"}, .answer = "label"};
struct EvaluationTask {
  std::string name{};
  std::string about{};
  std::string data{};  // the name of its data set, where it is another one
  TaskKind kind = TaskKind::choices;
  ScoringStyle style = ScoringStyle::joint;

  // What is said.
  std::string instruction{};           // before everything
  std::string prompt{};                // template
  std::vector<std::string> choices{};  // templates; none: the options of each item
  std::string choice = "{{option}}";   // template of one option
  /// Template of what follows an option; then the options end the prompts, and the continuation is
  /// the same.
  std::string ending{};
  std::string continuation{};       // template; TaskKind::continuation and text
  std::string delimiter = " ";      // between a prompt and what follows it
  std::string separator = "\n\n";   // behind an example
  bool has_fixed_examples = false;  // the same for all items; else each draws its own

  // Of which fields of an entry.
  std::string options{};               // a list of texts
  std::string answer{};                // number or name of the right choice, or its text
  std::vector<std::string> answers{};  // names of the choices, in their order
  Index first = 0;                     // number of the first choice
  std::string references{};            // a text or a list of texts
  std::string group{};
  /// Entries of the published layouts as entries with the fields above; left out: as they are.
  std::function<std::vector<ItemFields>(const ItemFields&)> prepare{};

  // What is written, and how it is read. TaskKind::generation.
  Index tokens = 32;  // at most
  std::vector<std::string> stop = {"\n\n"};
  bool answers_alone = false;  // the whole text must be a choice; else one of its words
  Index otherwise = -1;        // the choice where none or several are written; −1: none

  std::vector<std::string> metrics = {"acc"};

  const std::string& data_name() const { return data.empty() ? name : data; }
  /// Throws  ArgumentError  for a task that asks nothing, or counts what it does not have
  void require_valid() const;
};

namespace detail {

/// Throws  ArgumentError  for a field that is not there
inline std::string rendered(std::string_view text, const std::map<std::string, std::string>& fields,
                            std::string_view option = {}) {
  std::string result;
  for (;;) {
    const std::size_t begin = text.find("{{");
    const std::size_t end = begin == std::string_view::npos ? begin : text.find("}}", begin);
    if (end == std::string_view::npos) return result += text;
    result += text.substr(0, begin);
    const std::string name(stripped(text.substr(begin + 2, end - begin - 2)));
    const auto field = fields.find(name);
    if (name == "option")
      result += option;
    else if (field == fields.end())
      throw ArgumentError("there is no field '" + printable(name) + "'");
    else
      result += field->second;
    text.remove_prefix(end + 2);
  }
}

/// The texts that an item is made of.
class TaskTexts {
 public:
  TaskTexts(const EvaluationTask& task, const EvaluationItem& item) : task_(task), item_(item) {}

  std::size_t choice_count() const {
    return task_.choices.empty() ? item_.options.size() : task_.choices.size();
  }
  bool has_prompts_by_choice() const { return !task_.ending.empty(); }
  std::string prompt(std::size_t choice = 0) const {
    const std::string_view option = has_prompts_by_choice() ? option_of(choice) : "";
    return rendered(task_.prompt, item_.fields, option);
  }
  /// What is compared, without the delimiter.
  std::string choice(std::size_t i) const {
    if (!task_.choices.empty()) return rendered(task_.choices[i], item_.fields);
    return rendered(task_.choice, item_.fields, option_of(i));
  }
  /// Behind the prompt.
  std::string continuation(std::size_t i) const {
    if (task_.kind == TaskKind::continuation || task_.kind == TaskKind::text)
      return task_.delimiter + rendered(task_.continuation, item_.fields);
    return task_.delimiter +
           (has_prompts_by_choice() ? rendered(task_.ending, item_.fields) : choice(i));
  }
  /// Prompt and right answer, as an example.
  std::string example() const {
    const auto right = static_cast<std::size_t>(item_.answer);
    std::string prompt_text = prompt(right);
    if (task_.style == ScoringStyle::separate) prompt_text = right_stripped(prompt_text);
    if (task_.kind == TaskKind::generation && choice_count() == 0)
      return prompt_text + task_.delimiter + item_.references.front() + task_.separator;
    return prompt_text + continuation(right) + task_.separator;
  }

 private:
  std::string_view option_of(std::size_t i) const { return item_.options[i]; }

  const EvaluationTask& task_;
  const EvaluationItem& item_;
};

inline void take_answer(const EvaluationTask& task, const ItemFields& entry, EvaluationItem& item) {
  const TaskTexts texts(task, item);
  const auto count = static_cast<Index>(texts.choice_count());
  const std::string word = entry.word(task.answer);
  const auto named = std::find(task.answers.begin(), task.answers.end(), word);
  item.answer = named - task.answers.begin();
  if (named == task.answers.end()) {
    const bool is_number =
        !word.empty() && word.size() < 9 &&
        std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
    item.answer = is_number ? std::stol(word) - task.first : -1;
    for (Index i = 0; !is_number && i < count; ++i)
      if (texts.choice(static_cast<std::size_t>(i)) == word) item.answer = i;
  }
  if (item.answer < 0 || item.answer >= count)
    entry.refuse(task.answer, "says '" + printable(word) + "', which is none of the " +
                                  std::to_string(count) + " choices");
}

/// An item from an entry whose fields are those that the task names.
inline EvaluationItem item_of(const EvaluationTask& task, const ItemFields& entry) {
  EvaluationItem item;
  item.place = entry.place();
  for (const auto& [name, value] : entry.json().items())
    if (value.is_string() || value.is_number() || value.is_boolean())
      item.fields[name] = entry.word(name);
  if (!task.options.empty()) item.options = entry.texts(task.options);
  const auto refuse = [&](const ArgumentError& error) {
    throw CheckpointError(entry.place(), "", error.what());
  };
  try {
    const TaskTexts texts(task, item);
    if (task.kind == TaskKind::choices && texts.choice_count() < 2)
      throw ArgumentError("there are fewer than two choices");
    for (std::size_t i = 0; i < std::max<std::size_t>(1, texts.choice_count()); ++i) {
      if (i == 0 || texts.has_prompts_by_choice()) static_cast<void>(texts.prompt(i));
      if (texts.choice_count() > 0 && texts.choice(i).empty() && !texts.has_prompts_by_choice())
        throw ArgumentError("choice " + std::to_string(i + 1) + " is empty");
      if (task.kind != TaskKind::generation && texts.continuation(i) == task.delimiter)
        throw ArgumentError("there is nothing to predict");
    }
    if (texts.choice_count() > 0) take_answer(task, entry, item);
    if (!task.references.empty()) {
      const bool is_one = entry.is_text(task.references);
      item.references = is_one ? std::vector<std::string>{entry.text(task.references)}
                               : entry.texts(task.references);
    }
    if (!task.group.empty()) item.group = entry.word(task.group);
  } catch (const ArgumentError& error) {
    refuse(error);
  }
  return item;
}

}  // namespace detail

inline void EvaluationTask::require_valid() const {
  const auto refuse = [&](const std::string& what) {
    throw ArgumentError("task " + detail::printable(name) + " " + what);
  };
  const bool has_choices = !choices.empty() || !options.empty();
  if (kind == TaskKind::choices && !has_choices) refuse("has neither choices nor options");
  if (choices.size() == 1) refuse("has one choice");
  if (has_choices && answer.empty()) refuse("does not say which field has the answer");
  if (!ending.empty() && options.empty()) refuse("has an ending without options");
  if ((kind == TaskKind::continuation || kind == TaskKind::text) && continuation.empty())
    refuse("has no continuation");
  if (kind == TaskKind::generation && !has_choices && references.empty())
    refuse("has neither choices nor references");
  if (tokens < 1) refuse("lets the model write nothing");
  if (otherwise >= static_cast<Index>(choices.size()) && otherwise >= 0)
    refuse("has no choice " + std::to_string(otherwise));
  if (metrics.empty()) refuse("counts nothing");
  for (const std::string& metric : metrics) {
    const auto is_in = [&](std::initializer_list<std::string_view> all) {
      return std::find(all.begin(), all.end(), metric) != all.end();
    };
    const bool is_answered = kind == TaskKind::choices || kind == TaskKind::generation;
    bool fits = false;
    if (kind == TaskKind::choices) fits = is_in({"acc", "acc_norm", "acc_bytes", "acc_tokens"});
    if (kind == TaskKind::continuation) fits = is_in({"acc", "perplexity"});
    if (kind == TaskKind::text)
      fits = is_in({"word_perplexity", "byte_perplexity", "bits_per_byte"});
    if (kind == TaskKind::generation) fits = metric == "acc" && has_choices;
    if (is_answered && !references.empty()) fits |= is_in({"em", "f1", "exact_match"});
    if (is_answered && !choices.empty()) fits |= is_in({"f1_macro", "f1a"});
    if (is_answered && !group.empty()) fits |= metric == "exact_questions";
    if (!fits) refuse("cannot count '" + detail::printable(metric) + "'");
  }
}

}  // namespace ssm
