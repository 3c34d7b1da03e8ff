// SPDX-License-Identifier: Apache-2.0
#include "ssm/long_range/classifier_run.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "support/temporary_folder.hpp"

namespace ssm {
namespace {

ClassificationData short_lists() {
  return ListOps{.max_depth = 2, .max_arguments = 3, .min_length = 3, .max_length = 8}.data(
      Seed{1}, 200, 60);
}

ClassifierRecipe small_recipe() {
  return {.model = {.vocabulary = list_ops::symbols + 1,
                    .inputs = 1,
                    .classes = list_ops::classes,
                    .d_model = 8,
                    .n_layer = 1,
                    .d_state = 4,
                    .dropout = 0.1},
          .batch = 20,
          .seed = 3};
}

template <class T = float, class L>
auto make_run(Context<Cpu>& ctx, const L& layer, const ClassificationData& data, Index steps,
              const std::filesystem::path& folder, bool resume = false,
              const std::string& settings = "a") {
  return ClassifierRun<Cpu, L, T>(ctx, layer, data, small_recipe(), {.steps = steps}, folder,
                                  settings, resume);
}

TEST_CASE("a run that was stopped goes on to the same weights, and measures what it learned") {
  const ClassificationData data = short_lists();
  const TokenClassifier layer = make_token_classifier(small_recipe().model);
  const TemporaryFolder folder;
  Context<Cpu> ctx;
  auto whole = make_run(ctx, layer, data, 60, folder / "whole");
  std::vector<double> losses;
  std::vector<Index> evaluated;
  whole.on_update = [&](const auto&, const TrainingStep& step) { losses.push_back(step.loss); };
  whole.on_evaluation = [&](const ClassifierMoment& now, const ClassifierScore& score) {
    evaluated.push_back(now.step);
    CHECK(score.sequences == 60);
  };
  CHECK(whole.run());
  CHECK(evaluated == std::vector<Index>{6, 12, 18, 24, 30, 36, 42, 48, 54, 60});
  CHECK(losses.back() < losses.front());
  const ClassifierScore score = whole.evaluate();
  CHECK(score.accuracy > 0.15);  // guessing has a tenth
  {
    auto part = make_run(ctx, layer, data, 60, folder / "part");
    part.is_stop_wanted = [&] { return part.step() == 25; };
    CHECK_FALSE(part.run());
    CHECK(part.step() == 25);
  }
  auto rest = make_run(ctx, layer, data, 60, folder / "part", true);
  CHECK(rest.step() == 25);
  CHECK(rest.run());
  CHECK(rest.evaluate().accuracy == score.accuracy);
  CHECK(file_text(folder / "part" / "checkpoint-0000060" / "model.safetensors") ==
        file_text(folder / "whole" / "checkpoint-0000060" / "model.safetensors"));
}

TEST_CASE("numbers are classified, and sequences may be in bf16") {
  const ClassificationData data = short_lists();
  const SequenceClassifier layer = make_sequence_classifier(small_recipe().model);
  const TemporaryFolder folder;
  Context<Cpu> ctx;
  auto run = make_run<BFloat16>(ctx, layer, data, 20, folder / "run");
  double first = 0, last = 0;
  run.on_update = [&](const ClassifierMoment& now, const TrainingStep& step) {
    if (now.step == 1) first = step.loss;
    last = step.loss;
  };
  CHECK(run.run());
  CHECK(last < first);
  CHECK(run.evaluate().loss > 0);
}

TEST_CASE("what makes no run is refused") {
  const ClassificationData data = short_lists();
  const TokenClassifier layer = make_token_classifier(small_recipe().model);
  const TemporaryFolder folder;
  Context<Cpu> ctx;
  CHECK_THROWS_WITH_AS(make_run(ctx, layer, {}, 1, folder / "a"),
                       "classifier: there are no sequences to train on", ArgumentError);
  CHECK_THROWS_WITH_AS(make_run(ctx, layer, data, 0, folder / "b"),
                       "classifier: a run is bounded by steps or by minutes", ArgumentError);
  make_run(ctx, layer, data, 1, folder / "c").run();
  CHECK_THROWS_AS(make_run(ctx, layer, data, 2, folder / "c"), ArgumentError);
  CHECK_THROWS_WITH_AS(
      make_run(ctx, layer, data, 2, folder / "c", true, "b"),
      ("classifier: the run in " + (folder / "c").string() + " was started with other settings: a")
          .c_str(),
      ArgumentError);
  write_text(folder / "c" / "checkpoint-0000001" / "classifier.json", "{\"format\": \"other\"}");
  CHECK_THROWS_AS(make_run(ctx, layer, data, 2, folder / "c", true), CheckpointError);
}

}  // namespace
}  // namespace ssm
