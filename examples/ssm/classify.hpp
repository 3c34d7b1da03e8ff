// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/long_range/classifier_run.hpp"

namespace ssm::cli {

/// What `ssm classify` was asked for.
struct ClassifyRequest {
  LongRangeTask task;  // with the settings of this run
  std::filesystem::path out;
  std::string settings;  // what a resumed run must have in common
  ClassifierLimits limits;
  std::string backend;
  bool in_bf16 = false;  // sequences and matrices, of cuda alone
  int threads = 0;
  bool resume = false;
};

/// Who is told what a run does.
struct ClassifyListener {
  /// Before the first update: parameters, and the step that the run goes on from.
  std::function<void(Index, Index)> on_begin;
  std::function<void(const ClassifierMoment&, const TrainingStep&)> on_update;
  std::function<void(const ClassifierMoment&, const ClassifierScore&)> on_evaluation;
  std::function<bool()> is_stop_wanted;
};

/// How long updates take: forward, backward and optimizer.
struct ClassifyTiming {
  double milliseconds = 0;  // of an update, the median
  Index parameters = 0;
};

/// Trains on a backend. Returns whether the run is done.
bool classify_on_cpu(const ClassifyRequest& request, const ClassificationData& data,
                     const ClassifyListener& listener);
bool classify_on_cuda(const ClassifyRequest& request, const ClassificationData& data,
                      const ClassifyListener& listener);

/// Times updates on random sequences of `length` positions.
ClassifyTiming time_on_cpu(const ClassifyRequest& request, Index length, Index updates);
ClassifyTiming time_on_cuda(const ClassifyRequest& request, Index length, Index updates);

/// Calls use(layer) with the classifier of a task.
template <class Use>
auto with_classifier(const LongRangeTask& task, const LabeledSequences& data, const Use& use) {
  SequenceClassifierConfig model = task.recipe.model;
  model.classes = data.classes;
  model.vocabulary = data.symbols + 1;  // 0 is the padding
  model.inputs = 1;
  return task.reads_tokens ? use(make_token_classifier(model))
                           : use(make_sequence_classifier(model));
}

// What follows is for the sources that compile it, one for each backend.
// T is the scalar of sequences.
template <class T, class B>
bool classify_on(Context<B>& ctx, const ClassifyRequest& request, const ClassificationData& data,
                 const ClassifyListener& listener) {
  const auto train = [&](const auto& layer) {
    ClassifierRun<B, std::remove_cvref_t<decltype(layer)>, T> run(
        ctx, layer, data, request.task.recipe, request.limits, request.out, request.settings,
        request.resume);
    run.on_update = listener.on_update;
    run.on_evaluation = listener.on_evaluation;
    run.is_stop_wanted = listener.is_stop_wanted;
    listener.on_begin(parameter_count(run.model().parameters), run.step());
    return run.run();
  };
  return with_classifier(request.task, data.training, train);
}

template <class T, class B>
ClassifyTiming time_on(Context<B>& ctx, const ClassifyRequest& request, Index length,
                       Index updates) {
  LabeledSequences data{.classes = request.task.recipe.model.classes};
  const Random random(Seed{1});
  std::vector<std::uint8_t> sequence(static_cast<std::size_t>(length));
  std::vector<Index> chosen;
  for (Index b = 0; b < request.task.recipe.batch; ++b) {
    for (std::size_t t = 0; t < sequence.size(); ++t)
      sequence[t] =
          static_cast<std::uint8_t>(random.below(static_cast<std::uint64_t>(b * length) + t, 256));
    data.add(sequence, static_cast<Token>(b % data.classes));
    chosen.push_back(b);
  }
  SequenceBatch batch;
  batch.fill(data, chosen);
  return with_classifier(request.task, data, [&](const auto& layer) {
    using L = std::remove_cvref_t<decltype(layer)>;
    using Input = std::conditional_t<ReadsTokens<L>, DynamicTensor<Token, 2, typename B::Space>,
                                     DynamicTensor<float, 3, typename B::Space>>;
    Input x;
    if constexpr (ReadsTokens<L>)
      copy_tensor(batch.tokens, x);
    else
      copy_tensor(batch.numbers, x);
    DynamicTensor<Token, 2, typename B::Space> targets;
    copy_tensor(batch.targets, targets);
    Model model{layer, layer.initialize(ctx, Seed{1})};
    auto trainer = mixed_precision_trainer<T>(ctx, model, {.rate = 1e-4});
    std::vector<double> times;
    for (Index i = 0; i < updates + 3; ++i) {  // the first ones make buffers and plans
      const auto begin = std::chrono::steady_clock::now();
      trainer.update(x, [&](auto y, auto dy) { return cross_entropy(ctx, y, targets, dy); });
      if constexpr (requires { ctx.resources().synchronize(); }) ctx.resources().synchronize();
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
              .count());
    }
    std::sort(times.begin() + 3, times.end());
    return ClassifyTiming{times[static_cast<std::size_t>(3 + updates / 2)],
                          parameter_count(model.parameters)};
  });
}

}  // namespace ssm::cli
