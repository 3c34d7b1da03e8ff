// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/model_file.hpp"
#include "ssm/io/optimizer_checkpoint.hpp"
#include "ssm/long_range/classifier_task.hpp"
#include "ssm/train/accuracy.hpp"
#include "ssm/train/losses.hpp"
#include "ssm/train/schedule.hpp"
#include "ssm/train/shuffled_windows.hpp"  // RandomOrder
#include "ssm/train/trainer.hpp"

namespace ssm {

/// How long a run goes on, and what it does on the way.
struct ClassifierLimits {
  Index steps = 0;           // 0: bounded by time
  double minutes = 0;        // 0: bounded by steps
  Index evaluate_every = 0;  // steps; 0: ten times in a run
  Index save_every = 0;      // steps; 0: once a minute
};

/// Where a run is.
struct ClassifierMoment {
  Index step = 0;
  Index total_steps = 0;  // 0: bounded by time
  double fraction = 0;    // of the run that is done
  double seconds = 0;     // of training and evaluation
  double rate = 0;
  Index positions = 0;  // of all sequences of the last update, padding included
};
/// What was measured on the test sequences.
struct ClassifierScore {
  double accuracy = 0;
  double loss = 0;  // nats
  Index sequences = 0;
};

/// Trains a classifier of tokens or of numbers, measures its accuracy, and leaves checkpoints from
/// which another run goes on: bounded by steps, it ends with the same weights, bit for bit, as one
/// that was never interrupted.
///   ClassifierRun run(ctx, make_token_classifier(sizes), data, recipe, limits, "run", "settings");
///   run.on_evaluation = [](const auto& now, const auto& score) { … };
///   run.run();
/// With sequences in T, bf16, it trains in mixed precision; accuracy is measured in float.
/// `settings` is whatever a resumed run must have in common with the one that it continues. The
/// context and the data must outlive it.
/// Throws  CheckpointError; ArgumentError  for no training sequences, a folder that holds a run,
///                                         other settings than the resumed run's, a loss that is
///                                         not finite any more
template <class B, class L, class T = float>
class ClassifierRun {
  using Space = typename B::Space;
  using Parameters = typename L::template Parameters<float, Space>;
  using Clock = std::chrono::steady_clock;

 public:
  ClassifierRun(Context<B>& ctx, const L& layer, const ClassificationData& data,
                const ClassifierRecipe& recipe, const ClassifierLimits& limits,
                const std::filesystem::path& folder, std::string settings, bool resume = false)
      : ctx_(ctx),
        data_(data),
        recipe_(recipe),
        limits_(limits),
        settings_(std::move(settings)),
        folder_(folder),
        model_{layer, layer.initialize(ctx, Seed{recipe.seed}.fork("model"))},
        trainer_(ctx, model_,
                 {.rate = recipe.rate,
                  .ssm_rate = std::min(recipe.rate, recipe.ssm_rate),
                  .weight_decay = recipe.weight_decay,
                  .decay_norms_and_biases = true,  // as in the published recipes
                  .clip_norm = recipe.clip},
                 Seed{recipe.seed}.fork("dropout")),
        schedule_{.kind = ScheduleKind::cosine,
                  .base = recipe.rate,
                  .warmup_steps = static_cast<Index>(recipe.warmup * resolution),
                  .total_steps = resolution} {
    if (data_.training.count() == 0)
      throw ArgumentError("classifier: there are no sequences to train on");
    if (recipe_.batch < 1) throw ArgumentError("classifier: a batch has at least one sequence");
    if (limits_.steps < 1 && !(limits_.minutes > 0))
      throw ArgumentError("classifier: a run is bounded by steps or by minutes");
    const std::vector<Index> steps = folder_.steps();
    if (!steps.empty() && !resume)
      throw ArgumentError(folder.string() + " already holds a run: continue it, or name another");
    if (!steps.empty()) go_on(steps.back());
  }

  std::function<void(const ClassifierMoment&, const TrainingStep&)> on_update = [](const auto&,
                                                                                   const auto&) {};
  std::function<void(const ClassifierMoment&, const ClassifierScore&)> on_evaluation =
      [](const auto&, const auto&) {};
  std::function<bool()> is_stop_wanted = [] { return false; };

  Index step() const { return trainer_.step(); }
  double seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - begin_).count();
  }
  const Model<Parameters>& model() const { return model_; }
  std::filesystem::path checkpoint() const { return folder_.at(step()); }

  /// To the end, or until a stop is wanted; saves a checkpoint either way. Returns whether it is
  /// done.
  bool run() {
    begin_ = last_save_ = Clock::now();
    evaluated_ = fraction();
    bool is_stopping = is_stop_wanted();
    while (!is_finished() && !is_stopping) {
      const double rate = schedule_.rate(static_cast<Index>(fraction() * resolution));
      const TrainingStep result = update(rate);
      if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm))
        throw ArgumentError("classifier: the loss is not finite any more, at step " +
                            std::to_string(step()) + "; the last checkpoint stays");
      on_update(moment(rate), result);
      if (is_evaluation_due()) {
        const ClassifierScore score = evaluate();
        on_evaluation(moment(rate), score);
      }
      if (is_save_due()) save();
      is_stopping = is_stop_wanted();
    }
    save();
    return is_finished();
  }

  /// The share of test sequences whose class is the likeliest.
  ClassifierScore evaluate() {
    ClassifierScore score{.sequences = data_.test.count()};
    for (Index begin = 0; begin < score.sequences; begin += recipe_.batch) {
      const Index end = std::min(begin + recipe_.batch, score.sequences);
      chosen_.resize(static_cast<std::size_t>(end - begin));
      for (Index i = begin; i < end; ++i) chosen_[static_cast<std::size_t>(i - begin)] = i;
      load(data_.test);
      y_.resize({end - begin, targets_.extent(1), data_.test.classes});
      model_.forward(ctx_, input(), y_);
      const double count = static_cast<double>(end - begin);
      score.loss += count * cross_entropy(ctx_, y_, targets_);
      copy_tensor(y_, host_y_);
      score.accuracy += count * ssm::accuracy(host_y_, batch_.targets);
    }
    const double all = std::max(1.0, static_cast<double>(score.sequences));
    score.accuracy /= all;
    score.loss /= all;
    return score;
  }

 private:
  static constexpr Index resolution = 1'000'000;  // steps of the schedule of a run
  static constexpr Index granularity = 64;        // positions

  bool is_timed() const { return limits_.steps == 0; }
  double fraction() const {
    return is_timed() ? std::min(1.0, seconds() / (60 * limits_.minutes))
                      : static_cast<double>(step()) / static_cast<double>(limits_.steps);
  }
  bool is_finished() const {
    return is_timed() ? seconds() >= 60 * limits_.minutes : step() >= limits_.steps;
  }
  ClassifierMoment moment(double rate) const {
    return {.step = step(),
            .total_steps = limits_.steps,
            .fraction = fraction(),
            .seconds = seconds(),
            .rate = rate,
            .positions = batch_.tokens.size()};
  }

  /// Every epoch has all sequences in an order of its own.
  TrainingStep update(double rate) {
    const Index count = data_.training.count();
    chosen_.resize(static_cast<std::size_t>(recipe_.batch));
    for (Index b = 0; b < recipe_.batch; ++b) {
      const Index i = step() * recipe_.batch + b;
      const Seed epoch =
          Seed{recipe_.seed}.fork("order").fork(static_cast<std::uint64_t>(i / count));
      const RandomOrder order(static_cast<std::uint64_t>(count), epoch);
      chosen_[static_cast<std::size_t>(b)] =
          static_cast<Index>(order(static_cast<std::uint64_t>(i % count)));
    }
    load(data_.training);
    return trainer_.update(input(),
                           [&](auto y, auto dy) { return cross_entropy(ctx_, y, targets_, dy); },
                           {.rate = rate});
  }

  void load(const LabeledSequences& data) {
    batch_.fill(data, chosen_, granularity);
    copy_tensor(batch_.targets, targets_);
    if constexpr (ReadsTokens<L>)
      copy_tensor(batch_.tokens, x_);
    else
      copy_tensor(batch_.numbers, x_);
  }
  const auto& input() const { return x_; }

  bool is_evaluation_due() {
    const bool is_due = limits_.evaluate_every > 0
                            ? step() % limits_.evaluate_every == 0
                            : std::floor(10 * fraction()) > std::floor(10 * evaluated_);
    if (is_due) evaluated_ = fraction();
    return is_due || is_finished();
  }
  bool is_save_due() const {
    return limits_.save_every > 0 ? step() % limits_.save_every == 0
                                  : Clock::now() - last_save_ > std::chrono::seconds(60);
  }

  void save() {
    folder_.write(step(), [&](const std::filesystem::path& folder) {
      ssm::save(folder / "model.safetensors", model_);
      save_optimizer(folder / "optimizer.safetensors", model_.layer, trainer_.optimizer());
      const nlohmann::ordered_json record{
          {"format", format}, {"step", step()}, {"seconds", seconds()}, {"settings", settings_}};
      write_text_file(folder / "classifier.json", record.dump(2) + "\n");
    });
    last_save_ = Clock::now();
  }
  void go_on(Index step) {
    const std::filesystem::path folder = folder_.at(step);
    const JsonObject record = read_json(folder / "classifier.json");
    if (record.text("format", "") != format)
      record.refuse("format", std::string("must be ") + format);
    if (record.text("settings", "") != settings_)
      throw ArgumentError("classifier: the run in " + folder_.path().string() +
                          " was started with other settings: " + record.text("settings", ""));
    ssm::load(folder / "model.safetensors", model_);
    load_optimizer(folder / "optimizer.safetensors", model_.layer, trainer_.optimizer());
    if (trainer_.step() != step || record.integer("step", 0) != step)
      throw CheckpointError(folder.string(), "", "holds another step than its name says");
    seconds_before_ = record.number("seconds", 0, 0, 1e12);
  }

  static constexpr const char* format = "ssm-classifier-1";

  Context<B>& ctx_;
  const ClassificationData& data_;
  ClassifierRecipe recipe_;
  ClassifierLimits limits_;
  std::string settings_;
  CheckpointFolder folder_;
  Model<Parameters> model_;
  Trainer<B, Parameters, T> trainer_;
  Schedule schedule_;
  SequenceBatch batch_;
  std::vector<Index> chosen_;
  std::conditional_t<ReadsTokens<L>, DynamicTensor<Token, 2, Space>, DynamicTensor<float, 3, Space>>
      x_;
  DynamicTensor<Token, 2, Space> targets_;
  DynamicTensor<float, 3, Space> y_;
  DynamicTensor<float, 3> host_y_;
  double seconds_before_ = 0;
  double evaluated_ = 0;  // the fraction of the run at the last evaluation
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_save_ = Clock::now();
};

}  // namespace ssm
