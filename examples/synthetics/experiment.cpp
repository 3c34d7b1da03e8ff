// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <algorithm>

#include "ssm/core/error.hpp"

namespace synthetics {

ssm::Schedule Settings::schedule() const {
  ssm::Schedule schedule{.kind = ssm::ScheduleKind::linear,
                         .base = rate,
                         .warmup_steps = steps_per_epoch() * ((epochs + 9) / 10),
                         .total_steps = total_steps()};
  if (task == "induction") {
    schedule.kind = ssm::ScheduleKind::cosine_timm;
    schedule.warmup_initial = std::min(1e-6, rate);
    schedule.minimum = rate / 10;
  }
  if (task == "mqar") schedule.kind = ssm::ScheduleKind::cosine;
  return schedule;
}

Data make_data(const Settings& settings, std::uint64_t seed) {
  if (settings.task == "mqar") {
    const ssm::MultiQueryRecall task{
        .vocabulary = settings.vocabulary, .length = settings.length, .pairs = settings.pairs};
    // Who knows the values that occur, and no more, guesses one of them.
    return {ssm::task_splits(task, ssm::Seed{settings.data_seed + seed}, settings.training,
                             settings.test),
            0, 1 / static_cast<double>(settings.pairs)};
  }
  const auto make = [&](const auto& task, double chance) {
    Data data{ssm::task_splits(task, ssm::Seed{settings.data_seed + seed}, settings.training,
                               settings.test),
              task.loss_floor(), chance};
    ssm::keep_last_target(data.splits.test);
    return data;
  };
  if (settings.task == "recall")
    return make(
        ssm::AssociativeRecall{.vocabulary = settings.vocabulary, .length = settings.length},
        2.0 / static_cast<double>(settings.vocabulary - 2));
  return make(ssm::InductionHeads{.vocabulary = settings.vocabulary, .length = settings.length},
              1.0 / static_cast<double>(settings.vocabulary - 2));
}

bool Run::is_finished(const Settings& settings) const {
  return static_cast<Index>(epochs.size()) >= settings.epochs ||
         (!epochs.empty() && epochs[best_epoch()].accuracy >= settings.until);
}

std::size_t Run::best_epoch() const {
  const auto best =
      std::max_element(epochs.begin(), epochs.end(),
                       [](const Epoch& a, const Epoch& b) { return a.accuracy < b.accuracy; });
  return static_cast<std::size_t>(best - epochs.begin());
}

const std::vector<Model>& all_models() {
  static const std::vector<Model> models{{"h3", train_h3, 0.998, 1.0},
                                         {"s4d", train_s4d, 0.860, 0.356, false},
                                         {"attention", train_attention, 1.0, 1.0},
                                         {"gss", train_gss, 0.780, 0.068, false},
                                         {"hybrid", train_hybrid, {}, {}},
                                         {"mamba", train_mamba, {}, {}},
                                         {"dense-mamba", train_dense_mamba, {}, {}},
                                         {"retnet", train_retnet, {}, {}}};
  return models;
}

const Model& model_named(const std::string& name) {
  for (const Model& model : all_models())
    if (model.name == name) return model;
  throw ssm::ArgumentError("no model is named '" + name + "'");
}

}  // namespace synthetics
