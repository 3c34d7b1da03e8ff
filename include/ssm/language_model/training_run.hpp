// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/communicator.hpp"
#include "ssm/core/sequence_cut.hpp"
#include "ssm/family/families.hpp"
#include "ssm/family/presets.hpp"
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/language_model.hpp"
#include "ssm/language_model/training_record.hpp"

namespace ssm {

/// What a training run is asked to do.
struct TrainingRequest {
  std::filesystem::path folder;  // gets checkpoint-STEP/
  FreshLanguageModel model{};    // of a new run
  BackendOptions backend{};      // but for the name, which limits have
  bool resume = false;           // go on from the newest checkpoint, if there is one
  TrainingRecipe recipe{};
  TrainingLimits limits{};
  Communicator* ranks = nullptr;  // that train together; null is this process alone
  Index sequence_parallel = 1;    // ranks that share every window; more than 1 need across_ranks
  const AcrossRanks* across_ranks = nullptr;  // primitives_across_ranks<B>() of the backend
  bool shards_optimizer = false;  // each rank keeps the moments of its part of the parameters
  bool recompute = false;  // run blocks forward once more instead of keeping what they computed
  std::set<std::string>
      given{};  // settings of the recipe and of the model that must not differ from a resumed run's
};

/// Where a run is.
struct TrainingMoment {
  Index step = 0;
  Index total_steps = 0;  // 0: bounded by time
  double fraction = 0;    // of the run that is done
  double seconds = 0;     // of training
  double rate = 0;
};

/// Trains a language model on a text and leaves checkpoints from which another call goes on. What
/// is shown of it is the caller's:
///   ssm::ByteTokens text("book.txt");
///   ssm::TrainingRun run({.folder = "run", .limits = {.steps = 1000}}, text, "book.txt");
///   run.on_update = [](const ssm::TrainingMoment& now, const ssm::TrainingStep& step) { … };
///   run.run();
/// Several ranks make one run: each has a TrainingRun with the same request and the same text. The
/// first one's clock is everybody's, it writes the checkpoints, and any number of ranks resumes
/// them. They share an update's batch (LanguageModelTrainer), so that losses are those of one rank.
/// A run bounded by steps and resumed after any interruption ends with the same weights, bit for
/// bit, as one that was never interrupted, on the same backend and number of threads.
/// Throws  CommunicationError; CheckpointError;
///         ArgumentError                   for a text that is too short or another one, a folder
///                                         that holds a run, settings that contradict the resumed
///                                         run's, a loss that is not finite any more. The last
///                                         checkpoint stays
class TrainingRun {
  using Clock = std::chrono::steady_clock;

 public:
  /// The text, whose name is for messages, must outlive the run.
  TrainingRun(TrainingRequest request, TokenView text, std::string text_name)
      : text_(require_settings(request, text)),
        text_name_(std::move(text_name)),
        summary_(summary_of(text)),
        ranks_(request.ranks),
        sequence_parallel_(request.sequence_parallel),
        across_ranks_(request.across_ranks),
        shards_optimizer_(request.shards_optimizer),
        recompute_(request.recompute),
        folder_(request.folder, is_first()),
        recipe_(request.recipe),
        limits_(request.limits) {
    require_same_text();
    const std::optional<TrainingRecord> record = resumed_record(request);
    if (record) resume_recipe(request, record->recipe);
    set_limits(record);
    const auto begin =
        static_cast<Index>(held_out_begin(static_cast<std::size_t>(text.size()), recipe_.held_out));
    if (begin < 2)
      throw ArgumentError(text_name_ + ": a text of " + std::to_string(text.size()) +
                          " tokens is too short to train on");
    training_ = text.subview(0, begin);
    held_out_ = text.subview(begin, text.size() - begin);
    start_model(record, request);
  }

  std::function<void(const TrainingMoment&, const TrainingStep&)> on_update = [](const auto&,
                                                                                 const auto&) {};
  std::function<void(const TrainingMoment&, const TextLoss&)> on_evaluation = [](const auto&,
                                                                                 const auto&) {};
  std::function<bool()> is_stop_wanted = [] { return false; };

  /// To the end of the request, or until a stop is wanted; the last checkpoint is saved either way.
  /// Returns whether it is done.
  bool run() {
    const std::unique_ptr<const TextWindows> windows = make_windows();
    begin_ = last_save_ = Clock::now();
    auto agreed = own_numbers();
    if (ranks_ != nullptr) ranks_->sum(std::span(agreed));
    agree(agreed);
    evaluated_fraction_ = fraction();
    while (!is_finished() && !is_stopping_) {
      const double rate = schedule_.rate(schedule_position());
      agreed = own_numbers();
      const TrainingStep result = model_->update(*windows, rate, agreed);
      require_finite(result);
      on_update(moment(rate), result);
      if (is_evaluation_due()) evaluate(quick_evaluation);
      if (is_save_due()) save();
      agree(agreed);
    }
    save();
    return is_finished();
  }
  /// How well the model predicts the held-out part; none where nothing is held out.
  std::optional<TextLoss> evaluate() {
    if (held_out_.size() < 2) return std::nullopt;
    return evaluate(held_out_.size());
  }

  const AnyLanguageModel& model() const { return *model_; }
  const TrainingRecipe& recipe() const { return recipe_; }
  const TrainingLimits& limits() const { return limits_; }
  bool is_resumed() const { return is_resumed_; }
  Index step() const { return model_->updates(); }
  TokenView training_text() const { return training_; }
  TokenView held_out_text() const { return held_out_; }
  /// Tokens of a window: the recipe's, or all there are.
  Index length() const { return std::min(recipe_.length, training_.size() - 1); }
  Index tokens_per_step() const { return recipe_.batch * recipe_.accumulation * length(); }
  double seconds() const { return ranks_ == nullptr ? own_seconds() : agreed_seconds_; }
  /// Whether this is the rank that writes files and may tell of the run.
  bool is_first() const { return ranks_ == nullptr || ranks_->rank() == 0; }
  std::filesystem::path checkpoint() const { return folder_.at(step()); }
  const std::filesystem::path& folder() const { return folder_.path(); }

 private:
  static constexpr Index time_resolution = 1'000'000;  // steps of the schedule of a timed run
  static constexpr double seconds_between_saves = 60;
  static constexpr Index quick_evaluation = 32768;  // tokens; the last evaluation reads them all

  std::unique_ptr<const TextWindows> make_windows() const {
    const Index rows = recipe_.batch * recipe_.accumulation;
    const Seed seed = Seed{recipe_.seed}.fork("text");
    if (recipe_.order == "shuffled")
      return std::make_unique<ShuffledWindows>(training_, length(), rows, seed);
    return std::make_unique<TextStreams>(training_, length(), rows, seed);
  }

  /// Before a folder is made for it.
  static TokenView require_settings(const TrainingRequest& request, TokenView text) {
    schedule_kind(request.recipe.schedule);
    require_word("order", request.recipe.order, "streams", "shuffled");
    require_word("documents", request.recipe.documents, "joined", "separate");
    const FreshLanguageModel& model = request.model;
    if (!model.config.empty() && !model.preset.empty())
      throw OptionError("preset", "cannot be given beside --config");
    const char* whole = !model.config.empty()   ? "--config"
                        : !model.preset.empty() ? "--preset"
                                                : nullptr;
    if (whole != nullptr && request.given.contains("model"))
      throw OptionError("model",
                        std::string("cannot be given beside ") + whole + ", which says the family");
    if (whole != nullptr && !model.options.empty())
      throw OptionError(model.options.begin()->first,
                        std::string("cannot be given beside ") + whole + ", which says all sizes");
    if (!model.preset.empty()) with_preset(model.preset, []<class F>(const auto&) {});
    const bool is_new = CheckpointFolder::steps_in(request.folder).empty();
    if (whole == nullptr && is_new)
      with_family(model.family, [&]<class F>() {
        const auto config = with_options<F>(F::standard(), model.options);
        const auto shapes = F::make(config).template zero_parameters<float>(Context<ShapesOnly>());
        require_effect(request, request.recipe, F::name, detail::has_attention<F>(config),
                       has_own_rates(shapes));
      });
    return text;
  }

  static void require_word(const char* setting, const std::string& word, const char* first,
                           const char* second) {
    if (word != first && word != second)
      throw OptionError(setting, std::string("must be ") + first + " or " + second);
  }

  double own_seconds() const {
    return seconds_before_ + std::chrono::duration<double>(Clock::now() - begin_).count();
  }
  /// What the ranks do next must not depend on whose clock is asked, or who is asked to stop: the
  /// first one's seconds, and how many are to stop, as sums. Several ranks agree on them with the
  /// loss of an update, on what they were before it.
  std::array<double, 2> own_numbers() const {
    if (ranks_ == nullptr) return {};
    return {is_first() ? own_seconds() : 0.0, is_stop_wanted() ? 1.0 : 0.0};
  }
  void agree(const std::array<double, 2>& sums) {
    agreed_seconds_ = sums[0];
    is_stopping_ = ranks_ == nullptr ? is_stop_wanted() : sums[1] > 0;
  }

  bool is_timed() const { return limits_.steps == 0; }
  double fraction() const {
    return is_timed() ? std::min(1.0, seconds() / (60 * limits_.minutes))
                      : static_cast<double>(step()) / static_cast<double>(limits_.steps);
  }
  bool is_finished() const {
    return is_timed() ? seconds() >= 60 * limits_.minutes : step() >= limits_.steps;
  }
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

  void require_same_text() const {
    if (ranks_ == nullptr) return;
    std::string first = summary_.digest;
    ranks_->broadcast(std::as_writable_bytes(std::span(first)), 0);
    if (first != summary_.digest)
      throw ArgumentError(text_name_ + ": " + rank_text(ranks_->rank(), ranks_->size()) +
                          " reads another text than the first rank");
  }

  std::optional<TrainingRecord> resumed_record(const TrainingRequest& request) const {
    const std::vector<Index> steps = folder_.steps();
    if (steps.empty()) return std::nullopt;
    if (!request.resume)
      throw ArgumentError(folder_.path().string() +
                          " already holds a training run: continue it with --resume, or name "
                          "another folder");
    const std::filesystem::path newest = folder_.at(steps.back());
    TrainingRecord record = read_record(newest / "trainer.json");
    if (record.step != steps.back())
      throw CheckpointError(newest.string(), "", "holds another step than its name says");
    if (record.text_digest != summary_.digest || record.text_tokens != text_.size())
      throw ArgumentError(text_name_ + " is not the text this run was started on");
    return record;
  }

  [[noreturn]] static void refuse_change(const std::string& setting) {
    throw OptionError(setting,
                      "cannot change when a run is resumed: leave it out, or start another run");
  }
  void resume_recipe(const TrainingRequest& request, const TrainingRecipe& stored) {
    recipe_ = stored;
    for_each_setting(request.recipe, [&](const std::string& name, const auto& asked, const char*) {
      for_each_setting(stored, [&](const std::string& same, const auto& used, const char*) {
        if constexpr (std::is_same_v<decltype(asked), decltype(used)>)
          if (name == same && request.given.contains(name) && asked != used) refuse_change(name);
      });
    });
  }

  /// What is asked for, else what the run was started with, else five minutes.
  void set_limits(const std::optional<TrainingRecord>& record) {
    if (record) {
      const TrainingLimits& before = record->limits;
      if (limits_.steps == 0 && limits_.minutes == 0) {
        limits_.steps = before.steps;
        limits_.minutes = before.minutes;
      }
      const auto keep = [](auto& now, const auto& then) {
        if (now == std::remove_cvref_t<decltype(now)>{}) now = then;
      };
      keep(limits_.evaluate_every, before.evaluate_every);
      keep(limits_.save_every, before.save_every);
      keep(limits_.log_every, before.log_every);
      keep(limits_.keep, before.keep);
      keep(limits_.backend, before.backend);
      seconds_before_ = record->seconds;
    }
    if (limits_.steps == 0 && limits_.minutes == 0) limits_.minutes = 5;
    if (limits_.log_every == 0) limits_.log_every = 10;
    if (limits_.keep == 0) limits_.keep = 2;
    if (limits_.backend.empty()) limits_.backend = "cpu";
    schedule_ = schedule_of(recipe_, is_timed() ? time_resolution : limits_.steps);
  }

  void start_model(const std::optional<TrainingRecord>& record, const TrainingRequest& request) {
    BackendOptions backend = request.backend;
    backend.backend = limits_.backend;
    if (record) {
      const std::filesystem::path checkpoint = folder_.at(record->step);
      if (!request.model.config.empty())
        throw OptionError("config", "cannot be given when a run is resumed: its model has its own");
      if (!request.model.preset.empty())
        throw OptionError("preset", "cannot be given when a run is resumed: its model has its own");
      BackendOptions own = backend;
      own.map_files = false;  // checkpoints are removed in the run
      model_.emplace(open_language_model(checkpoint, own));
      if (request.given.contains("model") && request.model.family != model_->facts().family)
        refuse_change("model");
      if (const auto changed = model_->changed_option(request.model.options))
        refuse_change(*changed);
      model_->resume_training(checkpoint, trainer(), recipe_.numbers);
      if (step() != record->step)
        throw CheckpointError(checkpoint.string(), "", "holds the optimizer of another step");
      saved_step_ = record->step;
      is_resumed_ = true;
    } else {
      FreshLanguageModel fresh = request.model;
      fresh.seed = Seed{recipe_.seed}.fork("model");
      // What ends a document ends what the model will write, unless its config says otherwise.
      if (recipe_.end_token >= 0 && fresh.config.empty() && fresh.end_tokens.empty())
        fresh.end_tokens = {static_cast<Token>(recipe_.end_token)};
      model_.emplace(fresh_language_model(fresh, backend));
      model_->start_training(trainer(), recipe_.numbers);
    }
    const LanguageModelFacts& facts = model_->facts();
    if (summary_.worst < 0 || summary_.worst >= facts.vocabulary)
      throw ArgumentError(text_name_ + ": token " + std::to_string(summary_.worst) +
                          " at position " + std::to_string(summary_.position) +
                          " is outside the model's vocabulary of " +
                          std::to_string(facts.vocabulary));
    require_effect(request, recipe_, facts.family, facts.has_attention, facts.has_own_rates);
  }
  LanguageModelTrainerConfig trainer() const {
    LanguageModelTrainerConfig config = trainer_config(recipe_, model_->facts().has_attention);
    config.ranks = ranks_;
    config.sequence_parallel = sequence_parallel_;
    config.across_ranks = across_ranks_;
    config.shards_optimizer = shards_optimizer_;
    config.recompute = recompute_;
    return config;
  }
  /// A setting that is asked for and would do nothing is a mistake.
  static void require_effect(const TrainingRequest& request, const TrainingRecipe& recipe,
                             std::string_view family, bool has_attention, bool has_own_rates) {
    const auto refuse_if = [&](bool is_idle, const char* setting, const std::string& why) {
      if (is_idle && request.given.contains(setting)) throw OptionError(setting, why);
    };
    refuse_if(has_attention && recipe.carry > 1, "carry",
              "models with attention carry no state, their cache would grow with it");
    refuse_if(recipe.order == "shuffled" && recipe.carry > 1, "carry",
              "windows in a shuffled order carry no state");
    refuse_if(recipe.documents == "joined", "end-token",
              "has no effect without --documents separate");
    if (recipe.documents == "separate" && recipe.end_token < 0)
      throw OptionError("documents", "separate needs to know the token that ends one: --end-token");
    refuse_if(!has_own_rates, "ssm-rate",
              "models of the family " + std::string(family) + " have no such parameters");
    refuse_if(recipe.weight_decay == 0, "decay-norms-and-biases",
              "has no effect without --weight-decay");
    refuse_if(recipe.schedule == "constant", "rate-end", "the schedule constant has no such rate");
    if (recipe.rate_end > recipe.rate)
      throw OptionError("rate-end", "is above --rate, where the schedule begins");
  }

  void require_finite(const TrainingStep& result) const {
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) return;
    throw ArgumentError(std::string("the ") + (std::isfinite(result.loss) ? "gradient" : "loss") +
                        " stopped being finite after step " + std::to_string(step()) +
                        ": use a lower --rate; " +
                        (saved_step_ < 0 ? "there is no checkpoint yet"
                                         : "the checkpoint of step " + std::to_string(saved_step_) +
                                               " stays in " + folder_.path().string()));
  }

  bool is_evaluation_due() {
    if (held_out_.size() < 2 || is_finished()) return false;
    if (limits_.evaluate_every > 0) return step() % limits_.evaluate_every == 0;
    if (fraction() < evaluated_fraction_ + 0.1) return false;
    evaluated_fraction_ = fraction();
    return true;
  }
  TextLoss evaluate(Index tokens) {
    const TrainingMoment now = moment();
    const TokenView text = held_out_.subview(0, std::min(tokens, held_out_.size()));
    const TextLoss loss =
        recipe_.documents == "separate" ? evaluate_documents(text) : model_->evaluate(text);
    on_evaluation(now, loss);
    return loss;
  }
  /// Each document from a state of its own.
  TextLoss evaluate_documents(TokenView text) const {
    TextLoss sum;
    std::vector<Token> block(1 << 16);
    Index document = 0;
    const auto add_document_to = [&](Index end) {
      const TextLoss loss = model_->evaluate(text.subview(document, end - document));
      sum.nats += loss.nats;
      sum.tokens += loss.tokens;
      document = end;
    };
    for (Index begin = 0; begin < text.size();) {
      const Index count = std::min(static_cast<Index>(block.size()), text.size() - begin);
      text.read(begin, std::span(block).first(static_cast<std::size_t>(count)));
      for (Index i = 0; i < count; ++i)
        if (block[static_cast<std::size_t>(i)] == recipe_.end_token) add_document_to(begin + i + 1);
      begin += count;
    }
    add_document_to(text.size());
    return sum;
  }

  bool is_save_due() const {
    if (limits_.save_every > 0) return step() % limits_.save_every == 0;
    // The first one early: a disk that cannot take it is known before much is lost.
    if (saved_step_ < 0) return true;
    if (ranks_ != nullptr) return agreed_seconds_ - saved_seconds_ >= seconds_between_saves;
    return std::chrono::duration<double>(Clock::now() - last_save_).count() >=
           seconds_between_saves;
  }
  void save() {
    last_save_ = Clock::now();
    saved_seconds_ = agreed_seconds_;
    if (step() == saved_step_) return;
    if (!is_first()) {
      model_->save({});  // gives the first rank its part
      saved_step_ = step();
      return;
    }
    folder_.write(
        step(),
        [&](const std::filesystem::path& place) {
          model_->save(place);
          write_record(place / "trainer.json", {.step = step(),
                                                .seconds = seconds(),
                                                .text_tokens = text_.size(),
                                                .text_digest = summary_.digest,
                                                .recipe = recipe_,
                                                .limits = limits_});
        },
        static_cast<std::size_t>(limits_.keep));
    saved_step_ = step();
  }

  TokenView text_;
  std::string text_name_;
  TextSummary summary_;
  Communicator* ranks_;
  Index sequence_parallel_;
  const AcrossRanks* across_ranks_;
  bool shards_optimizer_;
  bool recompute_;
  CheckpointFolder folder_;
  TrainingRecipe recipe_;
  TrainingLimits limits_;
  TokenView training_, held_out_;
  Schedule schedule_;
  std::optional<AnyLanguageModel> model_;
  bool is_resumed_ = false;
  Index saved_step_ = -1;
  double seconds_before_ = 0;
  double evaluated_fraction_ = 0;
  double agreed_seconds_ = 0, saved_seconds_ = 0;
  bool is_stopping_ = false;
  Clock::time_point begin_ = Clock::now(), last_save_;
};

}  // namespace ssm
