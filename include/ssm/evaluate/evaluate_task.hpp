// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ssm/evaluate/continuations.hpp"
#include "ssm/evaluate/metrics.hpp"
#include "ssm/evaluate/python_random.hpp"
#include "ssm/evaluate/task.hpp"
#include "ssm/io/end_of_text.hpp"
#include "ssm/language_model/completion.hpp"
#include "ssm/language_model/score_text.hpp"

namespace ssm {

/// How far an evaluation is.
struct EvaluationProgress {
  Index done = 0, total = 0;  // requests: choices, continuations, texts
  Index tokens = 0;           // that the model has read or written
};

/// How many items are asked, behind which examples, and how much is read at once.
struct EvaluationOptions {
  Index shots = 0;  // examples before each item
  /// Where they are taken from; empty: from the items, without the one that is asked. Tasks that
  /// have the same ones for all items must be given some.
  std::vector<EvaluationItem> examples{};
  std::uint64_t seed = 1234;  // of the examples; lm-evaluation-harness has 1234, H3 has 3
  Index limit = 0;            // items at most, from the first on; 0: all
  /// Tokens of a request at most; 0: as many as the model has learned positions, or 2048.
  Index longest = 0;
  std::optional<Token> end_of_text{};  // stands for an empty prompt; none: the tokenizer's
  Index batch = 0;                     // as ContinuationOptions
  int threads = 0;                     // as ContinuationOptions
  bool keeps_prompts = false;          // in ItemScore
  std::function<bool(const EvaluationProgress&)> on_progress{};  // false: stop, by an error
};

/// What came of a task.
struct EvaluationResult {
  std::string task{};
  Index shots = 0;
  std::vector<MetricValue> metrics{};
  std::vector<ItemScore> items{};  // in their order
  Index requests = 0;
  Index tokens = 0;  // that the model has read or written: what is shared counts once
  double seconds = 0;
};

namespace detail {

/// The choice that stands in a text: as the whole of it, or as a word of the first line that has
/// any of the choices; the task's `otherwise` where there is none, or several.
inline Index written_choice(const EvaluationTask& task, const EvaluationItem& item,
                            std::string_view text) {
  const TaskTexts texts(task, item);
  std::vector<std::string> choices;
  for (std::size_t k = 0; k < texts.choice_count(); ++k) choices.push_back(lower(texts.choice(k)));
  const auto find = [&](const std::string& word) {
    const auto found = std::find(choices.begin(), choices.end(), word);
    return found == choices.end() ? Index{-1} : found - choices.begin();
  };
  const std::string written = lower(stripped(text));
  if (task.answers_alone) return find(written);
  for (const std::string& line : split(written, "\n")) {
    const bool has_any = std::any_of(choices.begin(), choices.end(), [&](const auto& choice) {
      return line.find(choice) != std::string::npos;
    });
    if (!has_any) continue;
    std::string plain = line;
    std::erase_if(plain,
                  [](char c) { return std::string_view(".,?;:'\"").find(c) != std::string::npos; });
    Index said = -1;
    for (const std::string& word : words(plain)) {
      const Index choice = find(word);
      if (choice < 0 || choice == said) continue;
      if (said >= 0) return task.otherwise;
      said = choice;
    }
    return said >= 0 ? said : task.otherwise;
  }
  return task.otherwise;
}

class TaskRun {
  using Clock = std::chrono::steady_clock;

 public:
  TaskRun(const AnyLanguageModel& model, const EvaluationTask& task,
          const std::vector<EvaluationItem>& items, const EvaluationOptions& options)
      : model_(model), task_(task), items_(items), options_(options) {
    task.require_valid();
    if (options.shots < 0 || options.limit < 0 || options.longest < 0 || options.batch < 0)
      throw ArgumentError("evaluation: shots, limit, longest and batch are at least 0");
    if (task.kind == TaskKind::text && options.shots > 0)
      throw ArgumentError(task.name + " is of whole texts, without examples");
    if (options.limit > 0 && static_cast<std::size_t>(options.limit) < items_.size())
      items_.resize(static_cast<std::size_t>(options.limit));
    if (items_.empty()) throw ArgumentError(task.name + ": there are no items");
    const Index positions = model.facts().positions;
    longest_ = options.longest > 0 ? options.longest : positions > 0 ? positions : 2048;
    if (positions > 0 && longest_ > positions)
      throw ArgumentError("the model has learned " + std::to_string(positions) +
                          " positions, requests of " + std::to_string(longest_) +
                          " tokens are too long");
    require_examples(items.size());
  }

  EvaluationResult run() {
    const auto begin = Clock::now();
    result_.task = task_.name;
    result_.shots = options_.shots;
    result_.items.resize(items_.size());
    if (task_.kind == TaskKind::text)
      score_texts();
    else if (task_.kind == TaskKind::generation)
      generate();
    else
      score_continuations_of_items();
    const MetricCounter counter(task_, items_, result_.items);
    for (const std::string& metric : task_.metrics)
      result_.metrics.push_back(counter.value(metric));
    result_.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return std::move(result_);
  }

 private:
  void require_examples(std::size_t item_count) {
    all_examples_ = options_.examples.empty() ? &items_ : &options_.examples;
    if (options_.shots > 0 && options_.examples.empty() && task_.has_fixed_examples)
      throw ArgumentError(task_.name +
                          ": all items have the same examples, which must be of another file");
    const std::size_t own = options_.examples.empty() ? 1 : 0;
    const std::size_t count =
        options_.examples.empty() ? std::min(item_count, items_.size()) : options_.examples.size();
    const auto shots = static_cast<std::size_t>(options_.shots);
    if (shots > 0 && shots + own > count)
      throw ArgumentError(task_.name + ": " + std::to_string(shots) + " examples of " +
                          std::to_string(count - std::min(count, own)) + " that there are");
  }

  // Prompts.

  /// Everything before an item.
  std::string head_of(std::size_t i) {
    std::string head = task_.instruction;
    for (const std::size_t k : drawn_for(i))
      head += TaskTexts(task_, (*all_examples_)[k]).example();
    return head;
  }
  /// As lm-evaluation-harness: each item draws anew, one more where it may draw itself.
  std::vector<std::size_t> drawn_for(std::size_t i) {
    const auto shots = static_cast<std::size_t>(options_.shots);
    if (shots == 0) return {};
    const std::size_t count = all_examples_->size();
    if (task_.has_fixed_examples) {
      if (fixed_.empty()) fixed_ = balanced(count, shots);
      return fixed_;
    }
    if (all_examples_ == &options_.examples) return random_.sample(count, shots);
    std::vector<std::size_t> drawn = random_.sample(count, shots + 1);
    std::erase(drawn, i);
    drawn.resize(shots);
    return drawn;
  }
  /// In an order that the seed gives, one of each answer in turn where tasks have fixed choices.
  std::vector<std::size_t> balanced(std::size_t count, std::size_t shots) {
    const std::vector<std::size_t> order = random_.sample(count, count);
    if (task_.choices.empty())
      return {order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shots)};
    std::vector<std::vector<std::size_t>> by_answer(task_.choices.size());
    for (const std::size_t k : order)
      by_answer[static_cast<std::size_t>((*all_examples_)[k].answer)].push_back(k);
    std::vector<std::size_t> drawn;
    for (std::size_t round = 0; drawn.size() < shots; ++round)
      for (const std::vector<std::size_t>& same : by_answer)
        if (round < same.size() && drawn.size() < shots) drawn.push_back(same[round]);
    return drawn;
  }

  // Tokens.

  Token end_token() {
    if (options_.end_of_text) return *options_.end_of_text;
    if (const auto token = end_of_text(tokenizer_)) return *token;
    if (!model_.facts().end_tokens.empty()) return model_.facts().end_tokens.front();
    throw ArgumentError(
        "a prompt is empty, and neither the tokenizer nor config.json has an "
        "end-of-text token to stand for it");
  }
  std::vector<Token> encode(std::string_view text) {
    std::vector<Token> tokens = tokenizer_.encode(text);
    model_.require_known(tokens);
    return tokens;
  }

  /// Whitespace at the end of a prompt belongs to the continuation; both are encoded together.
  ContinuationRequest joint(std::string_view prompt, std::string_view continuation) {
    ContinuationRequest request;
    const std::string_view context = prompt.empty() ? prompt : right_stripped(prompt);
    const std::string text = std::string(prompt) + std::string(continuation);
    if (!context.empty()) request.context = encode(context);
    request.continuation = encode(text);
    const std::size_t common = std::min(request.context.size(), request.continuation.size());
    request.continuation.erase(request.continuation.begin(),
                               request.continuation.begin() + static_cast<std::ptrdiff_t>(common));
    if (request.context.empty()) {
      const Token end = end_token();
      request.context = {end};
      if (request.continuation.size() > 1 && request.continuation.front() == end)
        request.continuation.erase(request.continuation.begin());
    }
    return request;
  }
  ContinuationRequest separate(std::string_view prompt, std::string_view continuation) {
    ContinuationRequest request;
    request.context = encode(stripped(prompt));
    request.continuation = encode(" " + std::string(stripped(continuation)));
    if (request.context.empty()) request.context = {end_token()};
    return request;
  }
  ContinuationRequest request_of(const EvaluationItem& item, std::string_view prompt,
                                 std::string_view continuation) {
    ContinuationRequest request = task_.style == ScoringStyle::joint
                                      ? joint(prompt, continuation)
                                      : separate(prompt, continuation);
    const auto length = static_cast<Index>(request.continuation.size());
    if (length == 0) throw CheckpointError(item.place, "", "has a choice without a token");
    if (length > longest_)
      throw CheckpointError(item.place, "",
                            "has a choice of " + std::to_string(length) + " tokens, " +
                                std::to_string(longest_) + " can be read");
    cut(request.context, longest_ - (length - 1));
    return request;
  }
  void cut(std::vector<Token>& prompt, Index most) const {
    const Index over = static_cast<Index>(prompt.size()) - most;
    if (over <= 0) return;
    if (task_.style == ScoringStyle::joint)
      prompt.erase(prompt.begin(), prompt.begin() + over);
    else
      prompt.erase(prompt.end() - over, prompt.end());
  }

  // Scores.

  void score_continuations_of_items() {
    std::vector<ContinuationRequest> requests;
    std::vector<std::size_t> first;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const std::string head = head_of(i);
      const TaskTexts texts(task_, items_[i]);
      first.push_back(requests.size());
      const std::size_t count = task_.kind == TaskKind::continuation ? 1 : texts.choice_count();
      for (std::size_t k = 0; k < count; ++k)
        requests.push_back(request_of(items_[i],
                                      head + texts.prompt(texts.has_prompts_by_choice() ? k : 0),
                                      texts.continuation(k)));
      if (options_.keeps_prompts) result_.items[i].prompt = head + texts.prompt(0);
    }
    first.push_back(requests.size());
    result_.requests = static_cast<Index>(requests.size());
    ContinuationOptions options{.batch = options_.batch, .threads = options_.threads};
    options.on_progress = [&](Index done, Index tokens) {
      tell(done, tokens);
      return true;
    };
    const std::vector<ContinuationScore> scores =
        score_continuations(model_, requests, options, &result_.tokens);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      ItemScore& item = result_.items[i];
      item.choices.assign(scores.begin() + static_cast<std::ptrdiff_t>(first[i]),
                          scores.begin() + static_cast<std::ptrdiff_t>(first[i + 1]));
      std::vector<double> values;
      for (const ContinuationScore& score : item.choices) {
        if (!std::isfinite(score.log_probability)) refuse_infinite(items_[i]);
        const double tokens = static_cast<double>(score.tokens);
        values.push_back(score.log_probability /
                         (task_.style == ScoringStyle::separate ? tokens : 1));
      }
      item.predicted = largest(values);
    }
  }
  void score_texts() {
    const Token end = end_token();
    result_.requests = static_cast<Index>(items_.size());
    for (std::size_t i = 0; i < items_.size(); ++i) {
      std::vector<Token> tokens{end};
      const std::vector<Token> text = encode(TaskTexts(task_, items_[i]).continuation(0));
      tokens.insert(tokens.end(), text.begin(), text.end());
      ScoringOptions options{.batch = options_.batch, .threads = options_.threads};
      options.on_progress = [&](const TextLoss& part) {
        tell(static_cast<Index>(i), result_.tokens + part.tokens);
      };
      const TextLoss loss = score_text(model_, tokens, ScoringProtocol::rolling(longest_), options);
      if (!std::isfinite(loss.nats)) refuse_infinite(items_[i]);
      result_.items[i].choices = {{.log_probability = -loss.nats, .tokens = loss.tokens}};
      result_.tokens += loss.tokens;
      tell(static_cast<Index>(i) + 1, result_.tokens);
    }
  }
  [[noreturn]] void refuse_infinite(const EvaluationItem& item) const {
    throw ArgumentError(item.place + ": the model's log-probability is not finite");
  }

  /// What all prompts begin with is read once.
  void generate() {
    std::vector<std::vector<Token>> prompts;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      std::string prompt = head_of(i) + TaskTexts(task_, items_[i]).prompt();
      if (options_.keeps_prompts) result_.items[i].prompt = prompt;
      if (task_.style == ScoringStyle::separate) prompt = stripped(prompt);
      std::vector<Token> tokens = encode(prompt);
      if (tokens.empty()) tokens = {end_token()};
      if (task_.tokens >= longest_)
        throw ArgumentError(task_.name + ": " + std::to_string(task_.tokens) +
                            " new tokens leave no place for a prompt in " +
                            std::to_string(longest_));
      cut(tokens, longest_ - task_.tokens);
      prompts.push_back(std::move(tokens));
    }
    std::size_t common = prompts.front().size();
    for (const std::vector<Token>& prompt : prompts) {
      common = std::min(common, prompt.size());
      for (std::size_t k = 0; k < common; ++k)
        if (prompt[k] != prompts.front()[k]) common = k;
    }
    Transcript shared(model_, 0);
    if (common > 1) {
      const std::vector<Token> head(prompts.front().begin(),
                                    prompts.front().begin() + static_cast<std::ptrdiff_t>(common));
      complete(model_, {{.prompt = head, .options = {.tokens = 0}, .transcript = &shared}});
      shared.roll_back(static_cast<Index>(common) - shared.read());
    }
    const auto read = static_cast<std::size_t>(shared.read());
    result_.tokens = static_cast<Index>(read);
    result_.requests = static_cast<Index>(prompts.size());
    const auto batch = static_cast<std::size_t>(options_.batch > 0 ? options_.batch : 16);
    for (std::size_t begin = 0; begin < prompts.size(); begin += batch)
      generate(prompts, begin, std::min(begin + batch, prompts.size()), shared, read);
  }
  void generate(const std::vector<std::vector<Token>>& prompts, std::size_t begin, std::size_t end,
                const Transcript& shared, std::size_t read) {
    std::vector<Transcript> forks;
    std::vector<CompletionRequest> requests;
    forks.reserve(end - begin);
    for (std::size_t i = begin; i < end; ++i) {
      forks.push_back(shared.fork());
      CompletionRequest request;
      request.prompt.assign(prompts[i].begin() + static_cast<std::ptrdiff_t>(read),
                            prompts[i].end());
      request.options.temperature = 0;
      request.options.tokens = task_.tokens;
      request.options.stop = task_.stop;
      request.transcript = &forks.back();
      result_.tokens += static_cast<Index>(request.prompt.size());
      requests.push_back(std::move(request));
    }
    const std::vector<Completion> completions = complete(model_, requests);
    for (std::size_t i = begin; i < end; ++i) {
      const Completion& completion = completions[i - begin];
      result_.tokens += static_cast<Index>(completion.tokens.size());
      result_.items[i].text = completion.text;
      result_.items[i].predicted = written_choice(task_, items_[i], completion.text);
    }
    tell(static_cast<Index>(end), result_.tokens);
  }
  void tell(Index done, Index tokens) const {
    if (!options_.on_progress) return;
    if (!options_.on_progress({.done = done, .total = result_.requests, .tokens = tokens}))
      throw Error("stopped before the end of " + task_.name);
  }

  const AnyLanguageModel& model_;
  const EvaluationTask& task_;
  std::vector<EvaluationItem> items_;
  const EvaluationOptions& options_;
  const std::vector<EvaluationItem>* all_examples_ = nullptr;
  Tokenizer tokenizer_ = model_.tokenizer();
  PythonRandom random_ = PythonRandom(options_.seed);
  std::vector<std::size_t> fixed_;
  Index longest_ = 0;
  EvaluationResult result_;
};

}  // namespace detail

/// Asks a model all items of a task and counts.
///   const EvaluationTask& task = ssm::evaluation_task("boolq");
///   const auto result = ssm::evaluate_task(model, task, ssm::read_items(task, "BoolQ/val.jsonl"));
///   std::cout << result.metrics.front().value;
/// What prompts have in common, such as the examples or the prompt of several choices, is read
/// once. With examples that each item draws for itself there is less of it.
/// Cost    as score_continuations, score_text and complete
/// Throws  ArgumentError    for options that do not fit, a model without a tokenizer, probabilities
///                          that are not finite;
///         CheckpointError  naming the place of the item, for a choice without a token or with too
///                          many
inline EvaluationResult evaluate_task(const AnyLanguageModel& model, const EvaluationTask& task,
                                      const std::vector<EvaluationItem>& items,
                                      const EvaluationOptions& options = {}) {
  return detail::TaskRun(model, task, items, options).run();
}

}  // namespace ssm
