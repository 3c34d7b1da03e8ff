// SPDX-License-Identifier: Apache-2.0
#include "training_run.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "families.hpp"
#include "ssm/io/byte_tokenizer.hpp"
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/train/progress.hpp"
#include "ssm/train/schedule.hpp"
#include "stop_signal.hpp"
#include "text_file.hpp"
#include "training_record.hpp"
#include "training_report.hpp"

namespace ssm::cli {
namespace {

constexpr Index time_resolution =
    1'000'000;  // steps of the schedule in a run that is bounded by time
constexpr double seconds_between_saves = 60;
constexpr std::size_t quick_evaluation = 32768;  // tokens; the last evaluation reads them all

LanguageModelTrainerConfig trainer_config(const TrainingRecipe& recipe, bool has_attention) {
  return {
      .batch = recipe.batch,
      .accumulation = recipe.accumulation,
      .carry = has_attention ? 1 : recipe.carry,  // a cache would grow with it
      .dropout = recipe.dropout,
      .seed = Seed{recipe.seed}.fork("dropout"),
      .optimizer = {.rate = recipe.rate,
                    .ssm_rate = recipe.ssm_rate > 0 ? recipe.ssm_rate : std::min(recipe.rate, 1e-3),
                    .beta2 = recipe.beta2,
                    .weight_decay = recipe.weight_decay,
                    .clip_norm = recipe.clip}};
}

/// The recipe of a resumed run; flags that contradict it are refused.
TrainingRecipe resumed_recipe(const TrainRequest& request, const TrainingRecord& record) {
  TrainingRecipe recipe = record.recipe;
  std::vector<std::string> changed;
  TrainingRecipe asked = request.recipe;
  for_each_option(asked, [&](const char* flag, const auto& wanted, const char*) {
    for_each_option(recipe, [&](const char* same, const auto& stored, const char*) {
      if constexpr (std::is_same_v<decltype(wanted), decltype(stored)>)
        if (flag == std::string_view(same) && request.given.contains(flag) && wanted != stored)
          changed.push_back(flag);
    });
  });
  if (!changed.empty())
    throw ArgumentError(changed.front() +
                        " cannot change when a run is resumed: leave it out, or start another run");
  return recipe;
}

class TrainingRun {
  using Clock = std::chrono::steady_clock;

 public:
  explicit TrainingRun(const TrainRequest& request)
      : text_(read_training_text(request.text)),
        folder_(request.out),
        recipe_(request.recipe),
        limits_(request.limits) {
    const std::optional<TrainingRecord> record = resumed_record(request);
    if (record) recipe_ = resumed_recipe(request, *record);
    if (record && !request.config.empty())
      throw ArgumentError("--config cannot be given when a run is resumed: its model has its own");
    set_limits(record);
    split_text(request.text.string());
    start_engine(record, request.config);
    report_.emplace(folder_.path(), step(), tokens_per_step(), limits_.log_every, request.quiet);
    announce(record.has_value());
  }

  void run() {
    const TextStreams streams(training_, length(), recipe_.batch * recipe_.accumulation,
                              Seed{recipe_.seed}.fork("text"));
    const StopSignal stop;
    begin_ = last_save_ = Clock::now();
    evaluated_fraction_ = fraction();
    save();
    while (!is_finished() && !stop.is_received()) {
      const double rate = schedule_.rate(schedule_position());
      const TrainingStep result = engine_->update(streams, rate);
      require_finite(result);
      report_->add(moment(rate), result);
      if (is_evaluation_due()) evaluate(quick_evaluation);
      if (is_save_due()) save();
    }
    save();
    if (is_finished())
      finish();
    else
      report_->say("stopped at step " + std::to_string(step()) + "; continue with --resume");
  }

 private:
  Index step() const { return engine_->step(); }
  double seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - begin_).count();
  }
  bool is_timed() const { return limits_.steps == 0; }
  double budget() const { return 60 * limits_.minutes; }  // seconds
  double fraction() const {
    return is_timed() ? std::min(1.0, seconds() / budget())
                      : static_cast<double>(step()) / static_cast<double>(limits_.steps);
  }
  bool is_finished() const { return is_timed() ? seconds() >= budget() : step() >= limits_.steps; }
  Index schedule_position() const {
    return is_timed() ? static_cast<Index>(fraction() * static_cast<double>(time_resolution))
                      : step();
  }
  TrainingMoment moment(double rate = 0) const {
    return {.step = step(),
            .total_steps = limits_.steps,
            .fraction = fraction(),
            .seconds = seconds(),
            .rate = rate};
  }
  Index length() const {
    return std::min(recipe_.length, static_cast<Index>(training_.size()) - 1);
  }
  Index tokens_per_step() const { return recipe_.batch * recipe_.accumulation * length(); }

  std::optional<TrainingRecord> resumed_record(const TrainRequest& request) const {
    const std::vector<Index> steps = folder_.steps();
    if (steps.empty()) return std::nullopt;
    if (!request.resume)
      throw ArgumentError(
          folder_.path().string() +
          " already holds a training run: continue it with --resume, or name another folder");
    TrainingRecord record = read_record(folder_.at(steps.back()) / "trainer.json");
    if (record.step != steps.back())
      throw CheckpointError(folder_.at(steps.back()).string(), "",
                            "holds another step than its name says");
    if (record.text_digest != digest_of(text_) ||
        record.text_bytes != static_cast<Index>(text_.size()))
      throw ArgumentError(request.text.string() + " is not the text this run was started on");
    return record;
  }

  /// What the command line says, else what the run was started with, else five minutes.
  void set_limits(const std::optional<TrainingRecord>& record) {
    if (record) {
      const TrainingLimits& before = record->limits;
      if (limits_.steps == 0 && limits_.minutes == 0) {
        limits_.steps = before.steps;
        limits_.minutes = before.minutes;
      }
      if (limits_.evaluate_every == 0) limits_.evaluate_every = before.evaluate_every;
      if (limits_.save_every == 0) limits_.save_every = before.save_every;
      if (limits_.log_every == 0) limits_.log_every = before.log_every;
      if (limits_.keep == 0) limits_.keep = before.keep;
      seconds_before_ = record->seconds;
    }
    if (limits_.steps == 0 && limits_.minutes == 0) limits_.minutes = 5;
    if (limits_.log_every == 0) limits_.log_every = 10;
    if (limits_.keep == 0) limits_.keep = 2;
    const Index total = is_timed() ? time_resolution : limits_.steps;
    schedule_ = {.kind = schedule_kind(recipe_.schedule),
                 .base = recipe_.rate,
                 .warmup_steps = std::llround(recipe_.warmup * static_cast<double>(total)),
                 .total_steps = total};
  }

  void split_text(const std::string& name) {
    const std::size_t begin = held_out_begin(text_.size(), recipe_.held_out);
    training_ = ByteTokenizer::encode(std::string_view(text_).substr(0, begin));
    held_out_ = ByteTokenizer::encode(std::string_view(text_).substr(begin));
    if (training_.size() < 2)
      throw ArgumentError(name + ": a text of " + std::to_string(text_.size()) +
                          " bytes is too short to train on");
  }

  void start_engine(const std::optional<TrainingRecord>& record,
                    const std::filesystem::path& config) {
    const Machine machine{backend_kind(recipe_.backend), limits_.threads};
    if (record) {
      const std::filesystem::path checkpoint = folder_.at(record->step);
      const JsonObject json = read_json(checkpoint / "config.json");
      const EngineFamily& family = use_family(json);
      engine_ = family.load(machine, checkpoint);
      engine_->start_training(trainer_config(recipe_, has_attention_));
      engine_->load_training(checkpoint);
      if (step() != record->step)
        throw CheckpointError(checkpoint.string(), "", "holds the optimizer of another step");
      saved_step_ = record->step;
    } else {
      engine_ = fresh_engine(machine, config);
      engine_->start_training(trainer_config(recipe_, has_attention_));
    }
    threads_ = thread_count(machine);
  }

  /// The sizes are those of a config, if there is one, else the recipe's.
  std::unique_ptr<Engine> fresh_engine(const Machine& machine,
                                       const std::filesystem::path& config) {
    const Seed seed = Seed{recipe_.seed}.fork("model");
    if (config.empty()) {
      has_attention_ = recipe_.model == "h3" && !recipe_.attention_layers.empty();
      return engine_family(recipe_.model).make(machine, recipe_, ByteTokenizer::vocabulary(), seed);
    }
    const JsonObject json = read_json(config);
    const EngineFamily& family = use_family(json);
    const Index vocabulary = family.sizes(json).vocabulary;
    if (vocabulary != ByteTokenizer::vocabulary())
      throw CheckpointError(config.string(), "",
                            "has a vocabulary of " + std::to_string(vocabulary) +
                                " tokens, bytes have " +
                                std::to_string(ByteTokenizer::vocabulary()));
    return family.make_from(machine, json, seed);
  }

  const EngineFamily& use_family(const JsonObject& config) {
    const EngineFamily& family = engine_family(config);
    recipe_.model = name_of(family.kind);
    has_attention_ = family.sizes(config).has_attention;
    return family;
  }

  void announce(bool is_resumed) {
    std::array<char, 256> line{};
    std::snprintf(line.data(), line.size(),
                  "%s model of %s parameters; %zu tokens to train on, %zu held out; %s, %d threads",
                  recipe_.model.c_str(),
                  quantity_text(static_cast<double>(engine_->parameter_count())).c_str(),
                  training_.size(), held_out_.size(), recipe_.backend.c_str(), threads_);
    report_->say(line.data());
    if (is_resumed) report_->say("resuming after step " + std::to_string(step()));
    if (length() < recipe_.length)
      report_->say("the text is short: windows of " + std::to_string(length()) + " tokens");
  }

  void require_finite(const TrainingStep& result) const {
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return;
    throw ArgumentError(std::string("the ") + (std::isfinite(result.loss) ? "gradient" : "loss") +
                        " stopped being finite after step " + std::to_string(step()) +
                        ": use a lower --rate; the checkpoint of step " +
                        std::to_string(saved_step_) + " stays in " + folder_.path().string());
  }

  bool is_evaluation_due() {
    if (held_out_.size() < 2 || is_finished()) return false;
    if (limits_.evaluate_every > 0) return step() % limits_.evaluate_every == 0;
    if (fraction() < evaluated_fraction_ + 0.1) return false;
    evaluated_fraction_ = fraction();
    return true;
  }
  double evaluate(std::size_t tokens) {
    const std::span<const Token> part =
        std::span(held_out_).first(std::min(tokens, held_out_.size()));
    const TrainingMoment now = moment();
    const TextLoss loss = engine_->loss(part, {.context = evaluation_context(has_attention_)});
    report_->add(now, loss);
    return bits_per_byte(loss);
  }

  bool is_save_due() const {
    if (limits_.save_every > 0) return step() % limits_.save_every == 0;
    return std::chrono::duration<double>(Clock::now() - last_save_).count() >=
           seconds_between_saves;
  }
  void save() {
    last_save_ = Clock::now();
    if (step() == saved_step_) return;
    folder_.write(
        step(),
        [&](const std::filesystem::path& place) {
          engine_->save(place);
          write_record(place / "trainer.json", {.step = step(),
                                                .seconds = seconds(),
                                                .text_bytes = static_cast<Index>(text_.size()),
                                                .text_digest = digest_of(text_),
                                                .recipe = recipe_,
                                                .limits = limits_});
        },
        static_cast<std::size_t>(limits_.keep));
    saved_step_ = step();
  }

  void finish() {
    std::array<char, 320> line{};
    std::snprintf(line.data(), line.size(), "%td steps, %s tokens in %s; the model is in %s",
                  step(), quantity_text(static_cast<double>(step() * tokens_per_step())).c_str(),
                  duration_text(seconds()).c_str(), folder_.at(step()).c_str());
    report_->say(line.data());
    if (held_out_.size() < 2) return;
    std::printf("held-out bits per byte: %.4f\n", evaluate(held_out_.size()));
    std::fflush(stdout);
  }

  std::string text_;
  CheckpointFolder folder_;
  TrainingRecipe recipe_;
  TrainingLimits limits_;
  std::vector<Token> training_, held_out_;
  Schedule schedule_;
  std::unique_ptr<Engine> engine_;
  bool has_attention_ = false;
  int threads_ = 1;
  std::optional<TrainingReport> report_;
  Index saved_step_ = -1;
  double seconds_before_ = 0;
  double evaluated_fraction_ = 0;
  Clock::time_point begin_ = Clock::now(), last_save_;
};

}  // namespace

void train(const TrainRequest& request) { TrainingRun(request).run(); }

}  // namespace ssm::cli
