// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "classify.hpp"
#include "command_options.hpp"
#include "commands.hpp"
#include "line_plot.hpp"
#include "metrics_log.hpp"
#include "progress.hpp"
#include "ssm/family/options.hpp"  // OptionError
#include "ssm/io/json_file.hpp"    // write_text_file
#include "status_line.hpp"
#include "stop_signal.hpp"
#ifdef SSM_WITH_PNG
#include "ssm/long_range/png.hpp"
#endif

namespace ssm::cli {
namespace {

constexpr const char* examples = R"(Examples:
  ssm classify listops --out run --backend cuda --minutes 20    expressions of our generator, published settings
  ssm classify pathfinder --out run --steps 5000 --mixer h3
  ssm classify imdb --data aclImdb --out run --backend cuda --minutes 20
  ssm classify listops --out run --steps 200 --layers 2 --width 32 --min-length 10 --max-length 60 \
      --training 5000 --test 500                                a minute of a CPU
  ssm classify listops --out run --steps 80000 --resume         go on after Ctrl-C, kill or a crash

Without --data sequences come from our generators: listops equal in distribution to the published one,
pathfinder and pathx images like the published ones. --data is a folder with the published files:
  listops      basic_train.tsv, basic_test.tsv
  imdb         aclImdb: train/pos, train/neg, test/pos, test/neg
  retrieval    new_aan_pairs.train.tsv, new_aan_pairs.test.tsv
  image        CIFAR-10, binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin
  pathfinder, pathx    metadata/*.npy and the images that they name
--out gets checkpoint-STEP/, metrics.jsonl, accuracy.svg and result.json.)";

struct ClassifyCommand {
  std::string task;
  std::filesystem::path data;
  ClassifyRequest request;
  // What is asked for in place of the published settings; absent: those.
  std::string mixer = "s4d", numbers = "float";
  bool causal = false;
  std::optional<Index> layers, width, state, batch, training, test;
  double rate = 0, dropout = -1;
  std::uint64_t seed = 0;
  ListOps list_ops;
  Index timed_updates = 0;  // time so many and train nothing
  Index timed_length = 0;   // 0: the task's
  bool quiet = false;
};

/// The task with the settings of the command.
LongRangeTask task_of(const ClassifyCommand& command) {
  LongRangeTask task = long_range_task(command.task);
  ClassifierRecipe& recipe = task.recipe;
  recipe.model.mixer = command.mixer == "h3" ? ClassifierMixer::h3 : ClassifierMixer::s4d;
  recipe.model.bidirectional = !command.causal;
  recipe.model.n_layer = command.layers.value_or(recipe.model.n_layer);
  recipe.model.d_model = command.width.value_or(recipe.model.d_model);
  recipe.model.d_state = command.state.value_or(recipe.model.d_state);
  if (command.dropout >= 0) recipe.model.dropout = command.dropout;
  recipe.batch = command.batch.value_or(recipe.batch);
  if (command.rate > 0) recipe.rate = command.rate;
  recipe.seed = command.seed;
  return task;
}

ClassificationData data_of(const ClassifyCommand& command, const LongRangeTask& task) {
  if (command.data.empty() && !task.has_generator)
    throw OptionError("data", "is required: " + command.task + " has no generator");
  if (!command.data.empty()) {
#ifdef SSM_WITH_PNG
    return read_long_range(task, command.data, read_png);
#else
    return read_long_range(task, command.data);
#endif
  }
  return generate_long_range(task, Seed{command.seed}.fork("data"),
                             command.training.value_or(task.training),
                             command.test.value_or(task.test), command.list_ops);
}

nlohmann::ordered_json settings_of(const ClassifyCommand& command, const LongRangeTask& task,
                                   const ClassificationData& data) {
  const ClassifierRecipe& r = task.recipe;
  return {{"task", command.task},
          {"data", command.data.empty() ? "generated" : command.data.string()},
          {"training", data.training.count()},
          {"test", data.test.count()},
          {"longest", std::max(data.training.longest(), data.test.longest())},
          {"mixer", command.mixer},
          {"bidirectional", r.model.bidirectional},
          {"layers", r.model.n_layer},
          {"width", r.model.d_model},
          {"state", r.model.d_state},
          {"dropout", r.model.dropout},
          {"numbers", command.numbers},
          {"batch", r.batch},
          {"rate", r.rate},
          {"ssm_rate", r.ssm_rate},
          {"weight_decay", r.weight_decay},
          {"seed", r.seed}};
}

/// metrics.jsonl, accuracy.svg, result.json and what standard error shows.
class ClassifyReport {
  using Clock = std::chrono::steady_clock;

 public:
  ClassifyReport(const ClassifyRequest& request, nlohmann::ordered_json settings, bool quiet)
      : request_(request), settings_(std::move(settings)), status_(quiet) {}

  void begin(Index parameters, Index step) {
    log_.emplace(request_.out / "metrics.jsonl", step);
    for (const MetricsLog::Entry& entry : log_->entries())
      if (entry.contains("accuracy"))
        curve_.push_back({entry["step"].get<double>(), 100 * entry["accuracy"].get<double>()});
    parameters_ = parameters;
    status_.say(settings_["mixer"].get<std::string>() + " of " +
                quantity_text(static_cast<double>(parameters)) + " parameters; " +
                settings_["training"].dump() + " sequences to train on, " +
                settings_["test"].dump() + " to test" +
                (step > 0 ? "; going on after step " + std::to_string(step) : ""));
    last_entry_ = Clock::now();
  }
  void add(const ClassifierMoment& now, const TrainingStep& result) {
    loss_ = loss_ == 0 ? result.loss : 0.95 * loss_ + 0.05 * result.loss;
    positions_ += now.positions;
    if (now.step % 10 == 0) {
      const double elapsed = std::chrono::duration<double>(Clock::now() - last_entry_).count();
      speed_ = static_cast<double>(positions_) / std::max(elapsed, 1e-9);
      positions_ = 0;
      last_entry_ = Clock::now();
      log_->append({{"step", now.step},
                    {"loss", result.loss},
                    {"rate", now.rate},
                    {"gradient_norm", result.gradient_norm},
                    {"positions_per_second", std::round(speed_)},
                    {"seconds", now.seconds}});
    }
    if (status_.is_due())
      status_.show(
          ProgressLine{.step = now.step,
                       .total_steps = now.total_steps,
                       .fraction = now.fraction,
                       .loss = loss_,
                       .rate = now.rate,
                       .tokens_per_second = speed_,
                       .seconds_left = now.seconds * (1 / std::max(now.fraction, 1e-9) - 1)}
              .text());
  }
  void add(const ClassifierMoment& now, const ClassifierScore& score) {
    log_->append({{"step", now.step},
                  {"accuracy", score.accuracy},
                  {"test_loss", score.loss},
                  {"seconds", now.seconds}});
    curve_.push_back({static_cast<double>(now.step), 100 * score.accuracy});
    std::array<char, 120> line{};
    std::snprintf(line.data(), line.size(), "step %td  test accuracy %.2f %%, loss %.4f", now.step,
                  100 * score.accuracy, score.loss);
    status_.say(line.data());
    write_text_file(request_.out / "accuracy.svg", plot());
    nlohmann::ordered_json result = settings_;
    result["parameters"] = parameters_;
    result["backend"] = request_.backend;
    result["steps"] = now.step;
    result["seconds"] = std::round(now.seconds * 10) / 10;
    result["accuracy"] = score.accuracy;
    result["best_accuracy"] = best() / 100;
    result["chance"] = request_.task.chance;
    result["published_s4d"] = request_.task.published_s4d;
    result["published_h3"] = request_.task.published_h3;
    write_text_file(request_.out / "result.json", result.dump(2) + "\n");
    last_entry_ = Clock::now();  // evaluation is not training
    positions_ = 0;
    accuracy_ = score.accuracy;
  }
  void end(bool is_done, Index step) {
    if (!is_done)
      return status_.say("stopped at step " + std::to_string(step) + "; continue with --resume");
    std::printf("test accuracy: %.2f %% (guessing: %.0f %%; published S4D: %.1f %%, H3: %.1f %%)\n",
                100 * accuracy_, 100 * request_.task.chance, 100 * request_.task.published_s4d,
                100 * request_.task.published_h3);
    std::fflush(stdout);
  }

 private:
  double best() const {
    double best = 0;
    for (const PlotPoint& point : curve_) best = std::max(best, point.y);
    return best;
  }
  std::string plot() const {
    const bool is_h3 = request_.task.recipe.model.mixer == ClassifierMixer::h3;
    const double published = is_h3 ? request_.task.published_h3 : request_.task.published_s4d;
    return LinePlot{
        .title = "test accuracy in %, " + std::string(request_.task.name),
        .x_label = "step",
        .curves = {{is_h3 ? "H3" : "S4D", "#1f6fb2", curve_}},
        .y_low = 0,
        .y_high = 100,
        .marked_levels = {{100 * request_.task.chance, "chance"}, {100 * published, "published"}}}
        .svg();
  }

  const ClassifyRequest& request_;
  nlohmann::ordered_json settings_;
  StatusLine status_;
  std::optional<MetricsLog> log_;
  std::vector<PlotPoint> curve_;
  Index parameters_ = 0;
  double loss_ = 0, speed_ = 0, accuracy_ = 0;
  Index positions_ = 0;
  Clock::time_point last_entry_ = Clock::now();
};

/// One line of JSON: how long an update of the published length takes.
void time_updates(const ClassifyCommand& command) {
  const ClassifyRequest& request = command.request;
  const Index length = command.timed_length > 0 ? command.timed_length : request.task.length;
#ifdef SSM_WITH_CUDA
  const auto time = request.backend == "cpu" ? time_on_cpu : time_on_cuda;
#else
  const auto time = time_on_cpu;
#endif
  const ClassifyTiming timing = time(request, length, command.timed_updates);
  const nlohmann::ordered_json line{{"task", command.task},
                                    {"mixer", command.mixer},
                                    {"backend", request.backend},
                                    {"numbers", command.numbers},
                                    {"batch", request.task.recipe.batch},
                                    {"length", length},
                                    {"layers", request.task.recipe.model.n_layer},
                                    {"width", request.task.recipe.model.d_model},
                                    {"parameters", timing.parameters},
                                    {"milliseconds", timing.milliseconds}};
  std::printf("%s\n", line.dump().c_str());
}

void classify(ClassifyCommand command) {
  ClassifyRequest& request = command.request;
  request.task = task_of(command);
  if (request.backend == "reference")
    throw OptionError("backend", "reference has no classifier: cpu, cuda or cuda-tf32");
#ifndef SSM_WITH_CUDA
  if (request.backend != "cpu") throw OptionError("backend", "this program was built without CUDA");
#endif
  request.in_bf16 = command.numbers == "bf16";
  if (request.in_bf16 && request.backend == "cpu")
    throw OptionError("numbers", "bf16 needs --backend cuda");
  if (command.timed_updates > 0) return time_updates(command);
  if (request.out.empty()) throw OptionError("out", "is required");
  if (request.limits.steps == 0 && request.limits.minutes == 0)
    request.limits.steps = request.task.steps;
  StatusLine status(command.quiet);
  status.hint("making the sequences");
  const ClassificationData data = data_of(command, request.task);
  const nlohmann::ordered_json settings = settings_of(command, request.task, data);
  request.settings = settings.dump();
  std::filesystem::create_directories(request.out);
  ClassifyReport report(request, settings, command.quiet);
  const StopSignal stop;
  Index last = 0;
  const ClassifyListener listener{
      [&](Index parameters, Index step) { report.begin(parameters, step); },
      [&](const ClassifierMoment& now, const TrainingStep& step) {
        report.add(now, step);
        last = now.step;
      },
      [&](const ClassifierMoment& now, const ClassifierScore& score) { report.add(now, score); },
      [&] { return stop.is_received(); }};
#ifdef SSM_WITH_CUDA
  const auto train = request.backend == "cpu" ? classify_on_cpu : classify_on_cuda;
#else
  const auto train = classify_on_cpu;
#endif
  const bool is_done = train(request, data, listener);
  report.end(is_done, last);
}

}  // namespace

void add_classify_command(CLI::App& app) {
  auto state = std::make_shared<ClassifyCommand>();
  ClassifyRequest& request = state->request;
  request.backend = "cpu";
  CLI::App* command = app.add_subcommand(
      "classify", "Train a classifier of long sequences on a task of the Long Range Arena.");
  command->footer(examples);
  std::vector<std::string> names;
  std::string about;
  for (const LongRangeTask& task : long_range_tasks) {
    names.emplace_back(task.name);
    about += (about.empty() ? "" : "; ") + std::string(task.name) + ": " + std::string(task.about);
  }
  add_word(*command, "task", state->task, about, names)->required();
  command->add_option("--out", request.out, "folder for checkpoints, metrics and the curve")
      ->type_name("DIR");
  command->add_option("--data", state->data, "folder with the published files; else generated ones")
      ->type_name("DIR");
  command->add_flag("--resume", request.resume,
                    "go on from the newest checkpoint in --out, if there is one");
  command->add_flag("--quiet", state->quiet, "no progress on standard error");
  CLI::Option* minutes =
      add_number(*command, "--minutes", request.limits.minutes, "train this long", 1e-3, 1e6);
  add_whole_number(*command, "--steps", request.limits.steps,
                   "train for this many updates (as published)", Index{1}, limit)
      ->excludes(minutes);
  add_whole_number(*command, "--evaluate-every", request.limits.evaluate_every,
                   "steps (else ten times in a run)", Index{1}, limit);
  add_whole_number(*command, "--save-every", request.limits.save_every,
                   "steps (else once a minute)", Index{1}, limit);
  add_whole_number(
      *command, "--time", state->timed_updates,
      "time so many updates on random sequences of the published length, say it as JSON, "
      "and train nothing",
      Index{1}, Index{1} << 20);
  add_whole_number(*command, "--length", state->timed_length, "of those sequences, in its place",
                   Index{1}, Index{1} << 24);
  add_backend_options(*command, request.backend, request.threads);
  add_word(*command, "--mixer", state->mixer, "of the blocks", {"s4d", "h3"})
      ->capture_default_str();
  add_word(*command, "--numbers", state->numbers,
           "of sequences and matrices while training: float, or bf16 on cuda", {"float", "bf16"})
      ->capture_default_str();
  command->add_flag("--causal", state->causal, "read in one direction alone");
  const auto size = [&](const char* flag, std::optional<Index>& value, const char* help) {
    add_whole_number(*command, flag, value, std::string(help) + " (as published)", Index{1},
                     Index{1} << 24);
  };
  size("--layers", state->layers, "blocks");
  size("--width", state->width, "channels");
  size("--state", state->state, "of each state-space model");
  size("--batch", state->batch, "sequences of an update");
  size("--training", state->training, "sequences that are generated to train on");
  size("--test", state->test, "sequences that are generated to measure accuracy on");
  add_number(*command, "--rate", state->rate, "highest learning rate (as published)", 1e-9, 1e3);
  add_number(*command, "--dropout", state->dropout, "(as published)", 0, 0.999);
  add_whole_number(*command, "--seed", state->seed, "of data, weights and order", std::uint64_t{0},
                   std::numeric_limits<std::uint64_t>::max())
      ->capture_default_str();
  add_whole_number(*command, "--min-length", state->list_ops.min_length,
                   "expressions of listops have more symbols", Index{0}, limit)
      ->capture_default_str();
  add_whole_number(*command, "--max-length", state->list_ops.max_length, "and fewer than this",
                   Index{6}, limit)
      ->capture_default_str();
  add_whole_number(*command, "--max-depth", state->list_ops.max_depth, "of nested lists", Index{2},
                   limit)
      ->capture_default_str();
  add_whole_number(*command, "--max-arguments", state->list_ops.max_arguments, "of a list",
                   Index{2}, limit)
      ->capture_default_str();
  command->callback([state] { classify(*state); });
}

}  // namespace ssm::cli
