// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "experiment.hpp"
#include "ssm/backend/cpu.hpp"
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

/// Trains what `Maker::make(settings)` makes. Every buffer is made once; a step
/// allocates no tensor.
template <class Maker>
class Training {
  using Model = typename Maker::Model;
  using Parameters = typename Model::template Parameters<float>;
  using Tokens = ssm::DynamicTensor<ssm::Token, 2>;

 public:
  Training(const Settings& settings, const Data& data, ssm::Seed seed)
      : settings_(settings),
        data_(data),
        seed_(seed),
        context_(ssm::cpu::Resources(1)),
        model_(Maker::make(settings)),
        parameters_(model_.initialize(context_, seed.fork("parameters"))),
        gradients_(model_.template zero_parameters<float>(context_)),
        optimizer_(context_, model_, parameters_,
                   {.rate = settings.rate,
                    .ssm_rate = std::min(settings.rate, 1e-3),
                    .weight_decay = settings.weight_decay,
                    .decay_norms_and_biases = true}),  // as in the published recipes
        schedule_(settings.schedule()),
        order_(static_cast<std::size_t>(settings.training)) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    loss_.resize({1});
  }

  /// Every training sequence once, in an order of its own. Returns the mean loss.
  double train_epoch(Index epoch) {
    shuffle(epoch);
    double sum = 0;
    for (Index begin = 0; begin < settings_.training; begin += settings_.batch) {
      const Index end = std::min(begin + settings_.batch, settings_.training);
      sum += static_cast<double>(end - begin) * update(begin, end);
    }
    return sum / static_cast<double>(settings_.training);
  }

  /// The share of targets that are the most likely of all tokens, among those of the test sequences
  /// that count.
  double accuracy() {
    const ssm::TaskSequences& test = data_.splits.test;
    // Where the last target alone counts, the logits of the last position are enough.
    const Index positions = settings_.task == "mqar" ? test.length : 1;
    const std::span<const ssm::Token> tokens(test.tokens);
    Index right = 0, asked = 0;
    for (Index begin = 0; begin < test.count; begin += settings_.batch) {
      const Index rows = std::min(settings_.batch, test.count - begin);
      const std::span<const ssm::Token> part =
          tokens.subspan(static_cast<std::size_t>(begin * test.length),
                         static_cast<std::size_t>(rows * test.length));
      logits_.resize({rows, positions, settings_.vocabulary});
      model_.forward(context_, parameters_, ssm::view_of(part).reshape(rows, test.length), logits_);
      for (Index b = 0; b < rows; ++b)
        for (Index t = 0; t < positions; ++t) {
          const Index at = (begin + b + 1) * test.length - positions + t;
          const ssm::Token target = test.targets[static_cast<std::size_t>(at)];
          if (target == ssm::ignored_target) continue;
          const float* scores = &logits_(b, t, 0);
          right += std::max_element(scores, scores + settings_.vocabulary) - scores == target;
          ++asked;
        }
    }
    return static_cast<double>(right) / static_cast<double>(asked);
  }

 private:
  void shuffle(Index epoch) {
    ssm::Draws draws(seed_.fork("order").fork(static_cast<std::uint64_t>(epoch)));
    for (std::size_t i = order_.size(); i > 1; --i)
      std::swap(order_[i - 1],
                order_[static_cast<std::size_t>(draws.below(static_cast<Index>(i)))]);
  }

  void load(Index begin, Index end) {
    const ssm::TaskSequences& data = data_.splits.training;
    const auto copy_rows = [&](const std::vector<ssm::Token>& from, Tokens& to) {
      to.resize({end - begin, data.length});
      for (Index b = begin; b < end; ++b)
        std::copy_n(
            &from[order_[static_cast<std::size_t>(b)] * static_cast<std::size_t>(data.length)],
            data.length, &to(b - begin, 0));
    };
    copy_rows(data.tokens, tokens_);
    copy_rows(data.targets, targets_);
    logits_.resize({end - begin, data.length, settings_.vocabulary});
  }

  double update(Index begin, Index end) {
    load(begin, end);
    const Index step = optimizer_.step();
    model_.forward(context_, parameters_, tokens_, logits_, tape_,
                   {.dropout = seed_.fork("dropout").fork(static_cast<std::uint64_t>(step))});
    const auto rows = ssm::as_rows(logits_.view());
    ssm::cross_entropy(
        context_,
        ssm::CrossEntropy<float, ssm::HostSpace>{
            .logits = rows, .targets = targets_.flatten(), .loss = loss_, .dlogits = rows});
    ssm::set_zero(context_, gradients_);
    model_.backward(context_, parameters_, tape_, logits_, gradients_);
    optimizer_.update(context_, parameters_, gradients_, schedule_.rate(step));
    if (!std::isfinite(loss_(0)))
      throw ssm::Error("the loss is no number any more at step " + std::to_string(step));
    return static_cast<double>(loss_(0));
  }

  const Settings& settings_;
  const Data& data_;
  ssm::Seed seed_;
  ssm::Context<ssm::Cpu> context_;
  Model model_;
  Parameters parameters_;
  Parameters gradients_;
  ssm::AdamW<Parameters> optimizer_;
  ssm::Schedule schedule_;
  std::vector<std::size_t> order_;
  Tokens tokens_;
  Tokens targets_;
  ssm::DynamicTensor<float, 3> logits_;
  ssm::DynamicTensor<float, 1> loss_;
  ssm::TapeOf<Parameters> tape_;
};

template <class Maker>
void train(const Settings& settings, const Data& data, std::uint64_t seed,
           const std::function<void(Epoch)>& report) {
  Training<Maker> training(settings, data, ssm::Seed{seed});
  for (Index epoch = 0; epoch < settings.epochs; ++epoch) {
    const double loss = training.train_epoch(epoch);
    report({.loss = loss, .accuracy = training.accuracy()});
  }
}

}  // namespace synthetics
