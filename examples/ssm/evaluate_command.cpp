// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "command_options.hpp"
#include "commands.hpp"
#include "progress.hpp"
#include "ssm/evaluate/dataset.hpp"
#include "ssm/evaluate/evaluate_task.hpp"
#include "ssm/evaluate/task_file.hpp"
#include "ssm/evaluate/tasks.hpp"
#include "ssm/io/json_file.hpp"  // write_text_file
#include "status_line.hpp"
#include "stop_signal.hpp"

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm evaluate mamba-130m piqa=valid.jsonl hellaswag=hellaswag_val.jsonl --tokenizer gpt-neox-20b
  ssm evaluate h3-125m superglue-h3 --data SuperGLUE --shots 3 --json
  ssm evaluate run colors.json=colors.jsonl --items items.jsonl
  ssm evaluate --list

TASK is a name, the name of a group, or a file NAME.json that describes a task; TASK=FILE says where its items are. Without
FILE they are looked for in --data DIR: NAME.jsonl or NAME.csv, or val, validation, dev or test.jsonl in a folder NAME of any
case; examples for --shots likewise: NAME.train.jsonl, or train.jsonl in the folder.)";

struct EvaluationRequest {
  std::filesystem::path model;
  std::vector<std::string> tasks;
  std::filesystem::path data, tokenizer;
  std::vector<std::string> example_files;
  EvaluationOptions options;
  std::optional<std::uint64_t> seed;
  std::filesystem::path items, out;
  bool lists = false;
  bool json = false;
  bool quiet = false;
  std::string weights = "fp32";
  BackendOptions backend;
};

/// A task with the files that it is asked from.
struct ChosenTask {
  EvaluationTask task;
  std::filesystem::path items, examples;
};

bool is_file(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}
/// The folder of that name, in any case, with - or _.
std::filesystem::path folder_named(const std::filesystem::path& data, const std::string& name) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(data, error)) {
    std::string folder = ssm::detail::lower(entry.path().filename().string());
    std::replace(folder.begin(), folder.end(), '-', '_');
    if (entry.is_directory(error) && folder == name) return entry.path();
  }
  return data / name;
}
std::filesystem::path first_file(const std::vector<std::filesystem::path>& paths) {
  for (const std::filesystem::path& path : paths)
    if (is_file(path)) return path;
  return {};
}
std::filesystem::path items_in(const std::filesystem::path& data, const std::string& name) {
  const std::filesystem::path folder = folder_named(data, name);
  return first_file({data / (name + ".jsonl"), data / (name + ".csv"), folder / "val.jsonl",
                     folder / "validation.jsonl", folder / "dev.jsonl", folder / "test.jsonl"});
}
std::filesystem::path examples_in(const std::filesystem::path& data, const std::string& name) {
  return first_file({data / (name + ".train.jsonl"), data / (name + ".train.csv"),
                     folder_named(data, name) / "train.jsonl"});
}

class TaskChooser {
 public:
  explicit TaskChooser(const EvaluationRequest& request) : request_(request) {}

  std::vector<ChosenTask> choose() {
    for (const std::string& word : request_.tasks) {
      const std::size_t equals = word.find('=');
      const std::string name = word.substr(0, equals);
      const std::string file = equals == std::string::npos ? "" : word.substr(equals + 1);
      const auto& groups = task_groups();
      const auto group = std::find_if(groups.begin(), groups.end(),
                                      [&](const TaskGroup& g) { return g.name == name; });
      if (group == groups.end()) {
        add(name.ends_with(".json") ? read_task(name) : evaluation_task(name), file);
        continue;
      }
      if (!file.empty())
        throw ArgumentError(name + " is several tasks, one file cannot be that of all");
      for (const std::string& member : group->tasks) add(evaluation_task(member), "");
    }
    for (const std::string& word : request_.example_files) set_examples(word);
    return std::move(chosen_);
  }

 private:
  void add(const EvaluationTask& task, const std::string& file) {
    ChosenTask chosen{.task = task, .items = file, .examples = {}};
    if (file.empty() && request_.data.empty())
      throw ArgumentError(task.name + ": say " + task.name + "=FILE, or --data DIR");
    if (file.empty()) chosen.items = items_in(request_.data, task.data_name());
    if (chosen.items.empty())
      throw ArgumentError(task.name + ": there is neither " + task.data_name() +
                          ".jsonl nor a folder " + task.data_name() + " with val.jsonl in " +
                          request_.data.string());
    if (request_.options.shots > 0 && !request_.data.empty())
      chosen.examples = examples_in(request_.data, task.data_name());
    chosen_.push_back(std::move(chosen));
  }
  void set_examples(const std::string& word) {
    const std::size_t equals = word.find('=');
    const std::string name = equals == std::string::npos ? "" : word.substr(0, equals);
    bool is_found = false;
    for (ChosenTask& chosen : chosen_) {
      if (!name.empty() && chosen.task.name != name && chosen.task.data_name() != name) continue;
      if (name.empty() && chosen_.size() > 1)
        throw ArgumentError("--examples: say TASK=FILE where there are several tasks");
      chosen.examples = equals == std::string::npos ? word : word.substr(equals + 1);
      is_found = true;
    }
    if (!is_found) throw ArgumentError("--examples: '" + name + "' is none of the tasks");
  }

  const EvaluationRequest& request_;
  std::vector<ChosenTask> chosen_;
};

/// Runs tasks one by one, and tells how far they are.
class Evaluation {
  using Clock = std::chrono::steady_clock;

 public:
  Evaluation(const EvaluationRequest& request, const AnyLanguageModel& model)
      : request_(request), model_(model), status_(request.quiet) {}

  nlohmann::ordered_json run(const std::vector<ChosenTask>& tasks) {
    nlohmann::ordered_json results = nlohmann::ordered_json::object();
    std::vector<std::vector<EvaluationItem>> items, shown;
    for (const ChosenTask& chosen : tasks) {  // what cannot be read is told before anything runs
      items.push_back(read_items(chosen.task, chosen.items));
      shown.emplace_back();
      if (request_.options.shots > 0 && !chosen.examples.empty())
        shown.back() = read_items(chosen.task, chosen.examples);
    }
    for (std::size_t i = 0; i < tasks.size(); ++i)
      results[tasks[i].task.name] = run(tasks[i], items[i], std::move(shown[i]));
    if (!request_.items.empty()) write_text_file(request_.items, lines_);
    return results;
  }

 private:
  nlohmann::ordered_json run(const ChosenTask& chosen, const std::vector<EvaluationItem>& items,
                             std::vector<EvaluationItem> shown) {
    EvaluationOptions options = request_.options;
    if (chosen.task.kind == TaskKind::text) options.shots = 0;
    options.examples = std::move(shown);
    options.seed = request_.seed.value_or(chosen.task.has_fixed_examples ? 3 : 1234);
    options.keeps_prompts = !request_.items.empty();
    options.threads = request_.backend.threads;
    // A model on a device has one thread; its host has more.
    if (options.threads == 0 && model_.facts().on_device)
      options.threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
    begin_ = Clock::now();
    options.on_progress = [&](const EvaluationProgress& progress) {
      return tell(chosen.task, progress);
    };
    const EvaluationResult result = evaluate_task(model_, chosen.task, items, options);
    const double rate = static_cast<double>(result.tokens) / std::max(1e-9, result.seconds);
    status_.say(chosen.task.name + ": " + std::to_string(result.items.size()) + " items, " +
                quantity_text(static_cast<double>(result.tokens)) + " tokens in " +
                duration_text(result.seconds) + ", " + quantity_text(rate) + " a second");
    if (!request_.items.empty()) add_lines(chosen.task, items, result);
    nlohmann::ordered_json json;
    for (const MetricValue& metric : result.metrics) {
      json[metric.name] = metric.value;
      if (metric.error) json[metric.name + "_stderr"] = *metric.error;
    }
    json["items"] = result.items.size();
    json["shots"] = result.shots;
    if (result.shots > 0) json["seed"] = options.seed;
    json["requests"] = result.requests;
    json["tokens"] = result.tokens;
    json["seconds"] = result.seconds;
    json["file"] = chosen.items.string();
    return json;
  }

  bool tell(const EvaluationTask& task, const EvaluationProgress& progress) {
    if (stop_.is_received()) return false;
    if (!status_.is_due()) return true;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    const double rate = static_cast<double>(progress.tokens) / std::max(1e-9, seconds);
    const auto done = static_cast<double>(progress.done);
    const auto total = static_cast<double>(progress.total);
    status_.show(task.name + ": " + quantity_text(done) + " of " + quantity_text(total) +
                 " requests  " + quantity_text(rate) + " tokens/s  " +
                 (done > 0 ? duration_text(seconds * (total - done) / done) + " left" : ""));
    return true;
  }

  void add_lines(const EvaluationTask& task, const std::vector<EvaluationItem>& items,
                 const EvaluationResult& result) {
    for (std::size_t i = 0; i < result.items.size(); ++i) {
      const ItemScore& score = result.items[i];
      const ssm::detail::TaskTexts texts(task, items[i]);
      nlohmann::ordered_json json{{"task", task.name}, {"item", i}, {"place", items[i].place}};
      json["prompt"] = score.prompt;
      for (std::size_t k = 0; k < score.choices.size(); ++k) {
        nlohmann::ordered_json choice{{"text", texts.continuation(k)}};
        choice["logprob"] = score.choices[k].log_probability;
        choice["tokens"] = score.choices[k].tokens;
        choice["greedy"] = score.choices[k].is_greedy;
        json["choices"].push_back(std::move(choice));
      }
      if (task.kind == TaskKind::generation) json["text"] = score.text;
      if (texts.choice_count() > 0) {
        json["predicted"] = score.predicted;
        json["answer"] = items[i].answer;
      }
      if (!items[i].references.empty()) json["references"] = items[i].references;
      lines_ += json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    }
  }

  const EvaluationRequest& request_;
  const AnyLanguageModel& model_;
  StatusLine status_;
  StopSignal stop_;
  Clock::time_point begin_{};
  std::string lines_;
};

std::string report_of(const nlohmann::ordered_json& results) {
  std::string text;
  std::array<char, 256> line{};
  const auto add = [&](const char* form, auto... values) {
    std::snprintf(line.data(), line.size(), form, values...);
    text += line.data();
  };
  double sum = 0;
  std::size_t count = 0;
  add("%-24s %6s  %-16s %10s  %s\n", "task", "items", "metric", "value", "standard error");
  for (const auto& [task, numbers] : results.items()) {
    bool is_first = true;
    for (const auto& [name, value] : numbers.items()) {
      if (name == "items") break;
      if (name.ends_with("_stderr")) continue;
      const auto error = numbers.find(name + "_stderr");
      add("%-24s %6zd  %-16s %10.4f  ", is_first ? task.c_str() : "",
          numbers["items"].get<std::ptrdiff_t>(), name.c_str(), value.get<double>());
      if (error != numbers.end()) add("± %.4f", error->get<double>());
      text += "\n";
      const bool is_share = name.find("perplexity") == std::string::npos && name != "bits_per_byte";
      if (is_first && is_share) {
        sum += value.get<double>();
        ++count;
      }
      is_first = false;
    }
  }
  if (count > 1)
    add("%-24s %6s  %-16s %10.4f\n", "average", "", "of the first",
        sum / static_cast<double>(count));
  return text;
}

std::string task_list() {
  std::string text;
  for (const EvaluationTask& task : evaluation_tasks()) {
    std::string metrics = ssm::detail::joined(task.metrics, ", ");
    std::array<char, 256> line{};
    std::snprintf(line.data(), line.size(), "%-20s %-36s %s\n", task.name.c_str(), metrics.c_str(),
                  task.about.c_str());
    text += line.data();
  }
  for (const TaskGroup& group : task_groups())
    text += std::string(group.name) + " = " + ssm::detail::joined(group.tasks, " ") + "\n";
  return text;
}

void print(const std::string& text) {
  if (!(std::cout << text << std::flush)) throw Error("standard output cannot be written");
}

void evaluate(const EvaluationRequest& request) {
  if (request.lists) return print(task_list());
  if (request.model.empty() || request.tasks.empty())
    throw CLI::RequiredError(request.model.empty() ? "model" : "tasks");
  const std::vector<ChosenTask> tasks = TaskChooser(request).choose();
  const AnyLanguageModel model =
      open_model(request.model, request.backend, request.weights, request.tokenizer);
  nlohmann::ordered_json json{{"model", request.model.string()},
                              {"fingerprint", model.fingerprint()}};
  json["backend"] = model.facts().backend;
  json["results"] = Evaluation(request, model).run(tasks);
  const std::string text = json.dump(2) + "\n";
  if (!request.out.empty()) write_text_file(request.out, text);
  print(request.json ? text : report_of(json["results"]));
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  auto request = std::make_shared<EvaluationRequest>();
  CLI::App* command = app.add_subcommand(
      "evaluate", "Ask a model the questions of benchmarks and count its right answers.");
  command->footer(examples);
  command->add_option("model", request->model, model_help)->type_name("DIR");
  command->add_option("tasks", request->tasks, "what is asked, see below")
      ->type_name("TASK[=FILE]");
  command->add_flag("--list", request->lists, "say which tasks there are, and end");
  command->add_option("--data", request->data, "folder with the data sets")->type_name("DIR");
  EvaluationOptions& options = request->options;
  add_whole_number(*command, "--shots", options.shots, "examples before each item (0)", Index{0},
                   Index{1000});
  command
      ->add_option("--examples", request->example_files,
                   "where the examples are taken from (--data's, or else the other items)")
      ->type_name("[TASK=]FILE")
      ->allow_extra_args(false);
  add_whole_number(*command, "--seed", request->seed,
                   "of the examples (1234; 3 for tasks with prompts of H3)", std::uint64_t{0},
                   std::numeric_limits<std::uint64_t>::max());
  add_whole_number(*command, "--limit", options.limit, "items of each task at most (all)", Index{1},
                   limit);
  add_whole_number(*command, "--max-tokens", options.longest,
                   "of a prompt with its continuation; longer ones are cut (the model's learned "
                   "positions, or 2048)",
                   Index{2}, limit);
  add_whole_number(*command, "--batch", options.batch, "requests that are read side by side (32)",
                   Index{1}, Index{1} << 16);
  add_whole_number(*command, "--eos", options.end_of_text,
                   "the token that stands for an empty prompt (the tokenizer's end-of-text)",
                   Token{0}, std::numeric_limits<Token>::max())
      ->type_name("ID");
  command
      ->add_option("--items", request->items, "write what came of each item, a line of JSON each")
      ->type_name("FILE");
  command->add_option("--out", request->out, "write the results as JSON")->type_name("FILE");
  command->add_flag("--json", request->json, "results as JSON on standard output");
  command->add_flag("--quiet", request->quiet, "no progress on standard error");
  add_tokenizer_option(*command, request->tokenizer);
  add_weights_option(*command, request->weights, request->backend.numbers);
  add_backend_options(*command, request->backend.backend, request->backend.threads);
  command->callback([request] { evaluate(*request); });
}

}  // namespace ssm::cli
