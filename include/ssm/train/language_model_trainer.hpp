// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ssm/layer/layer.hpp"  // as_rows, TapeOf
#include "ssm/op/cross_entropy.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/text_streams.hpp"
#include "ssm/train/training_step.hpp"
#include "ssm/train/working_parameters.hpp"

namespace ssm {

struct LanguageModelTrainerConfig {
  Index batch = 16;        // streams that go through the model together
  Index accumulation = 1;  // batches whose gradients make one update
  Index carry = 1;  // windows through which the state is carried; 1: each begins without a past
  Seed seed{};      // of the model's dropout
  AdamWConfig optimizer{};
};

/// Trains a language model on windows of a text, one window of every stream an update. With `carry`
/// the state at the end of a window is the past of the next (truncated backpropagation through
/// time), so that the model learns to run on and on.
///   LanguageModelTrainer trainer(ctx, layer, parameters,
///                                {.batch = 16, .carry = 16, .optimizer = {.rate = 2e-3}});
///   trainer.update(ctx, layer, parameters, streams, schedule.rate(trainer.step()));
/// With sequences in T, bf16 or f16, `parameters` stay what is trained, in full precision; forward
/// and backward passes read a copy with its matrices in T, which the optimizer's pass writes, and
/// states, sums and the gradients of parameters are float. In f16 the loss is scaled, and a batch
/// whose gradient overflows is done again at half the scale. Nobody else may change the parameters
/// between updates, or must `refresh` the copy.
///   LanguageModelTrainer<Parameters, BFloat16> trainer(ctx, layer, parameters, config);
/// Everything random is a function of seeds and the number of the update: with the same parameters,
/// moments and states a run that was stopped makes the same updates, bit for bit on the same
/// backend and number of threads.
template <class P, class T = typename P::Scalar>
class LanguageModelTrainer {
  using L = typename P::Layer;
  using Space = typename P::Space;
  using Working = typename WorkingParameters<P, T>::Type;

 public:
  using Scalar = T;
  using State = StateOf<Working>;

  /// Throws  ArgumentError  for options outside their range
  template <class B>
  LanguageModelTrainer(Context<B>& ctx, const L& layer, const P& parameters,
                       LanguageModelTrainerConfig config)
      : config_(config),
        optimizer_(ctx, layer, parameters, config.optimizer),
        working_(ctx, layer, parameters),
        gradients_(layer.template zero_parameters<Wide<T>>(ctx)),
        tape_(layer.template make_tape<T>(ctx)) {
    optimizer_.loss_scale() = LossScale::for_sequences<T>();
    if (config.batch < 1 || config.accumulation < 1 || config.carry < 1)
      throw ArgumentError("training: batch, accumulation and carry must be at least 1");
    if (config.carry > 1)
      for (Index microbatch = 0; microbatch < config.accumulation; ++microbatch)
        states_.push_back(layer.template initial_state<T>(ctx, config.batch));
  }

  /// One update at the learning rate `rate`. Where the loss or the gradient is not finite, the
  /// parameters stay as they were and the result says so.
  template <class B>
  TrainingStep update(Context<B>& ctx, const L& layer, P& parameters, const TextStreams& streams,
                      double rate) {
    if (streams.streams() != config_.batch * config_.accumulation)
      throw ArgumentError("training: " + std::to_string(streams.streams()) + " streams for " +
                          std::to_string(config_.batch * config_.accumulation) +
                          " windows an update");
    resize(streams.length(), layer.padded_vocabulary());
    LossScale& scale = optimizer_.loss_scale();
    if (scale.is_dynamic()) copy_states(ctx, states_, states_before_);
    while (true) {
      const TrainingStep result = try_update(ctx, layer, parameters, streams, rate);
      if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) {
        scale.count_update();
        return result;
      }
      if (!scale.shrink()) return result;
      copy_states(ctx, states_before_, states_);
    }
  }
  /// After somebody else has changed the parameters.
  template <class B>
  void refresh(Context<B>& ctx, const P& parameters) {
    working_.refresh(ctx, parameters);
  }

  /// Updates made so far.
  Index step() const { return optimizer_.step(); }
  const LanguageModelTrainerConfig& config() const { return config_; }
  AdamW<P>& optimizer() { return optimizer_; }
  const AdamW<P>& optimizer() const { return optimizer_; }
  const P& gradients() const { return gradients_; }
  /// What is carried to the next window, one state for each batch of an update; none without
  /// `carry`.
  std::vector<State>& states() { return states_; }
  const std::vector<State>& states() const { return states_; }

 private:
  template <class B>
  TrainingStep try_update(Context<B>& ctx, const L& layer, P& parameters,
                          const TextStreams& streams, double rate) {
    set_zero(ctx, gradients_);
    TrainingStep result;
    for (Index microbatch = 0; microbatch < config_.accumulation; ++microbatch) {
      fill(streams, microbatch * config_.batch);
      SequenceOptions<State> options = options_of(microbatch);
      options.dropout =
          config_.seed.fork(static_cast<std::uint64_t>(step() * config_.accumulation + microbatch));
      result.loss += accumulate(ctx, layer, working_.of(parameters), options) /
                     static_cast<double>(config_.accumulation);
    }
    result.gradient_norm =
        std::isfinite(result.loss)
            ? optimizer_.update(ctx, parameters, gradients_, rate, working_.of(parameters))
            : optimizer_.gradient_norm(ctx, gradients_);
    return result;
  }
  template <class B>
  static void copy_states(Context<B>& ctx, const std::vector<State>& from, std::vector<State>& to) {
    to.resize(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) copy_state<L>(ctx, from[i], to[i]);
  }
  void resize(Index length, Index vocabulary) {
    for (auto* tokens : {&host_tokens_, &host_targets_}) tokens->resize({config_.batch, length});
    for (auto* tokens : {&tokens_, &targets_}) tokens->resize({config_.batch, length});
    logits_.resize({config_.batch, length, vocabulary});
    loss_.resize({1});
  }
  void fill(const TextStreams& streams, Index first) {
    streams.fill(first, step(), host_tokens_, host_targets_);
    const std::size_t bytes = static_cast<std::size_t>(tokens_.size()) * sizeof(Token);
    Space::copy(tokens_.data(), host_tokens_.data(), bytes);
    Space::copy(targets_.data(), host_targets_.data(), bytes);
  }
  SequenceOptions<State> options_of(Index microbatch) {
    if (states_.empty()) return {};
    State& state = states_[static_cast<std::size_t>(microbatch)];
    return {.initial_state = step() % config_.carry == 0 ? nullptr : &state, .final_state = &state};
  }
  /// Adds the gradient of one batch; returns its loss.
  template <class B>
  double accumulate(Context<B>& ctx, const L& layer, const Working& parameters,
                    const SequenceOptions<State>& options) {
    layer.forward(ctx, parameters, tokens_, logits_, tape_, options);
    const auto rows = as_rows(logits_.view());
    cross_entropy(ctx, CrossEntropy<T, Space>{.logits = rows,
                                              .targets = targets_.flatten(),
                                              .scale = optimizer_.loss_scale().value() /
                                                       static_cast<double>(config_.accumulation),
                                              .loss = loss_,
                                              .dlogits = rows});
    layer.backward(ctx, parameters, tape_, logits_, gradients_);
    Wide<T> loss{};
    Space::copy(&loss, loss_.data(), sizeof(loss));
    return static_cast<double>(loss);
  }

  LanguageModelTrainerConfig config_;
  AdamW<P> optimizer_;
  WorkingParameters<P, T> working_;
  P gradients_;
  TapeOf<Working> tape_;
  std::vector<State> states_, states_before_;
  DynamicTensor<Token, 2> host_tokens_, host_targets_;
  DynamicTensor<Token, 2, Space> tokens_, targets_;
  DynamicTensor<T, 3, Space> logits_;
  DynamicTensor<Wide<T>, 1, Space> loss_;
};

}  // namespace ssm
