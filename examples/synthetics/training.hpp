// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "experiment.hpp"
#include "ssm/backend/cpu.hpp"
#ifdef SSM_WITH_CUDA
#include "ssm/backend/cuda.hpp"
#endif
#include "ssm/core/transfer.hpp"
#include "ssm/io/checkpoint.hpp"
#include "ssm/io/safetensors.hpp"
#include "ssm/model/blocks.hpp"
#include "ssm/op/cross_entropy.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm_compiled_primitives.hpp"

namespace synthetics {

/// The models of the H3 paper's synthetic tasks: two pre-norm blocks of width 32 with an MLP of
/// width 128, tied head.
template <class Block>
struct TwoBlocks {
  static constexpr Index width = 32;
  using Layer = typename Block::template Layer<width>;
  using Model = ssm::BasicLanguageModel<ssm::Sequential<Layer, Layer>, ssm::LayerNorm<width>>;
  static Model make(const Settings& settings) {
    return Model({.vocabulary = settings.vocabulary, .embedding_dropout = settings.dropout});
  }
};

/// Trains what `Maker::make(settings)` makes on a backend. Every buffer is made once; a step
/// allocates no tensor. Losses and gradients stay where the backend computes.
template <class Maker, class Backend>
class Training {
  using Space = typename Backend::Space;
  using Model = typename Maker::Model;
  using Parameters = typename Model::template Parameters<float, Space>;
  using Tokens = ssm::DynamicTensor<ssm::Token, 2>;
  using TokensThere = ssm::DynamicTensor<ssm::Token, 2, Space>;

 public:
  Training(const Settings& settings, const Data& data, ssm::Seed seed,
           typename Backend::Resources resources)
      : settings_(settings),
        data_(data),
        seed_(seed),
        context_(std::move(resources)),
        model_(Maker::make(settings)),
        parameters_(model_.initialize(context_, seed.fork("parameters"))),
        gradients_(model_.template zero_parameters<float>(context_)),
        optimizer_(context_, model_, parameters_,
                   {.rate = settings.rate,
                    .ssm_rate = std::min(settings.rate, 1e-3),
                    .weight_decay = settings.weight_decay,
                    .decay_norms_and_biases = true}),  // as in the published recipes
        schedule_(settings.schedule()),
        tape_(model_.template make_tape<float>(context_)),
        order_(static_cast<std::size_t>(settings.training)) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    losses_.resize({settings.steps_per_epoch()});
  }

  /// Goes on from what was kept after so many epochs.
  void resume(const std::filesystem::path& file, Index epochs) {
    const ssm::SafetensorsFile kept(file);
    auto here = ssm::copy_to(host_, model_, parameters_);
    const auto load = [&](Parameters& to, const char* prefix) {
      ssm::load_parameters(kept, here, prefix);
      ssm::copy_parameters(here, to);
    };
    load(parameters_, "weights.");
    load(optimizer_.first_moment(), "first_moment.");
    load(optimizer_.second_moment(), "second_moment.");
    optimizer_.set_step(epochs * settings_.steps_per_epoch());
  }
  void keep(const std::filesystem::path& file, Index epochs) const {
    const auto weights = ssm::copy_to(host_, model_, parameters_);
    const auto first = ssm::copy_to(host_, model_, optimizer_.first_moment());
    const auto second = ssm::copy_to(host_, model_, optimizer_.second_moment());
    ssm::SafetensorsWriter writer(file);
    writer.metadata(epochs_of_state, std::to_string(epochs));
    ssm::save_parameters(writer, weights, "weights.");
    ssm::save_parameters(writer, first, "first_moment.");
    ssm::save_parameters(writer, second, "second_moment.");
    writer.finish();
  }

  /// Every training sequence once, in an order of its own. Returns the mean loss.
  double train_epoch(Index epoch) {
    load(epoch);
    const Index batch = settings_.batch;
    for (Index i = 0; i < losses_.size(); ++i) update(i, rows_at(i * batch, settings_.training));
    ssm::copy_tensor(losses_, losses_here_);
    double sum = 0;
    for (Index i = 0; i < losses_here_.size(); ++i)
      sum += static_cast<double>(rows_at(i * batch, settings_.training)) *
             static_cast<double>(losses_here_(i));
    if (!std::isfinite(sum))
      throw ssm::Error("the loss is no number any more in epoch " + std::to_string(epoch + 1));
    return sum / static_cast<double>(settings_.training);
  }

  /// The share of targets that are the most likely of all tokens, among those of the test sequences
  /// that count.
  double accuracy() {
    const ssm::TaskSequences& test = data_.splits.test;
    // Where the last target alone counts, the logits of the last position are enough.
    const Index positions = settings_.task == "mqar" ? test.length : 1;
    if (test_tokens_.size() == 0) {
      Tokens here({test.count, test.length});
      std::copy(test.tokens.begin(), test.tokens.end(), here.data());
      ssm::copy_tensor(here, test_tokens_);
    }
    Index right = 0, asked = 0;
    for (Index begin = 0; begin < test.count; begin += settings_.batch) {
      const Index rows = rows_at(begin, test.count);
      logits_.resize({rows, positions, settings_.vocabulary});
      model_.forward(context_, parameters_, part(test_tokens_, begin, rows), logits_);
      ssm::copy_tensor(logits_, logits_here_);
      for (Index b = 0; b < rows; ++b)
        for (Index t = 0; t < positions; ++t) {
          const Index at = (begin + b + 1) * test.length - positions + t;
          const ssm::Token target = test.targets[static_cast<std::size_t>(at)];
          if (target == ssm::ignored_target) continue;
          const float* scores = &logits_here_(b, t, 0);
          right += std::max_element(scores, scores + settings_.vocabulary) - scores == target;
          ++asked;
        }
    }
    return static_cast<double>(right) / static_cast<double>(asked);
  }

 private:
  Index rows_at(Index begin, Index count) const { return std::min(settings_.batch, count - begin); }
  static auto part(const TokensThere& tokens, Index begin, Index rows) {
    return ssm::View<const ssm::Token, 2, Space>(tokens.data() + begin * tokens.extent(1),
                                                 {rows, tokens.extent(1)});
  }

  /// The training sequences in the order of an epoch.
  void load(Index epoch) {
    for (; shuffled_ <= epoch; ++shuffled_) shuffle(shuffled_);
    const ssm::TaskSequences& data = data_.splits.training;
    const auto copy_rows = [&](const std::vector<ssm::Token>& from, TokensThere& to) {
      ordered_.resize({settings_.training, data.length});
      for (Index b = 0; b < settings_.training; ++b)
        std::copy_n(
            &from[order_[static_cast<std::size_t>(b)] * static_cast<std::size_t>(data.length)],
            data.length, &ordered_(b, 0));
      ssm::copy_tensor(ordered_, to);
    };
    copy_rows(data.tokens, tokens_);
    copy_rows(data.targets, targets_);
  }
  void shuffle(Index epoch) {
    ssm::Draws draws(seed_.fork("order").fork(static_cast<std::uint64_t>(epoch)));
    for (std::size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1],
                order_[static_cast<std::size_t>(draws.below(static_cast<Index>(i)))]);
  }

  void update(Index batch, Index rows) {
    const Index begin = batch * settings_.batch;
    const Index step = optimizer_.step();
    logits_.resize({rows, tokens_.extent(1), settings_.vocabulary});
    model_.forward(context_, parameters_, part(tokens_, begin, rows), logits_, tape_,
                   {.dropout = seed_.fork("dropout").fork(static_cast<std::uint64_t>(step))});
    const auto logits = ssm::as_rows(logits_.view());
    ssm::cross_entropy(context_,
                       ssm::CrossEntropy<float, Space>{
                           .logits = logits,
                           .targets = part(targets_, begin, rows).flatten(),
                           .loss = ssm::View<float, 1, Space>(losses_.data() + batch, {1}),
                           .dlogits = logits});
    ssm::set_zero(context_, gradients_);
    model_.backward(context_, parameters_, tape_, logits_, gradients_);
    optimizer_.update(context_, parameters_, gradients_, schedule_.rate(step));
  }

  const Settings& settings_;
  const Data& data_;
  ssm::Seed seed_;
  ssm::Context<ssm::Cpu> host_{ssm::cpu::Resources(1)};
  ssm::Context<Backend> context_;
  Model model_;
  Parameters parameters_;
  Parameters gradients_;
  ssm::AdamW<Parameters> optimizer_;
  ssm::Schedule schedule_;
  ssm::TapeOf<Parameters> tape_;
  std::vector<std::size_t> order_;
  Index shuffled_ = 0;  // times
  Tokens ordered_;
  TokensThere tokens_, targets_, test_tokens_;
  ssm::DynamicTensor<float, 3, Space> logits_;
  ssm::DynamicTensor<float, 3> logits_here_;
  ssm::DynamicTensor<float, 1, Space> losses_;  // of an epoch's updates
  ssm::DynamicTensor<float, 1> losses_here_;
};

template <class Maker, class Backend>
void train_on(typename Backend::Resources resources, const Settings& settings, const Data& data,
              std::uint64_t seed, const Course& course) {
  Training<Maker, Backend> training(settings, data, ssm::Seed{seed}, std::move(resources));
  if (course.epochs > 0) training.resume(course.state, course.epochs);
  using Clock = std::chrono::steady_clock;
  auto kept = Clock::now();
  for (Index epoch = course.epochs; epoch < settings.epochs; ++epoch) {
    const double loss = training.train_epoch(epoch);
    course.report({.loss = loss, .accuracy = training.accuracy()});
    const bool is_stopping = course.is_stop_wanted();
    if (is_stopping || Clock::now() - kept > std::chrono::minutes(1)) {
      course.before_keeping();
      training.keep(course.state, epoch + 1);
      kept = Clock::now();
    }
    if (is_stopping) return;
  }
}

template <class Maker>
void train(const Settings& settings, const Data& data, std::uint64_t seed, const Course& course) {
#ifdef SSM_WITH_CUDA
  if (settings.backend == "cuda")
    return train_on<Maker, ssm::Cuda>(ssm::cuda::Resources(), settings, data, seed, course);
#endif
  train_on<Maker, ssm::Cpu>(ssm::cpu::Resources(1), settings, data, seed, course);
}

}  // namespace synthetics
