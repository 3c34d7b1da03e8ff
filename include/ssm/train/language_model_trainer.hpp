// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/recording.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/layer/copy_state_row.hpp"
#include "ssm/layer/layer.hpp"  // as_rows, TapeOf
#include "ssm/model/head_loss.hpp"
#include "ssm/op/cross_entropy.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/gradient_buckets.hpp"
#include "ssm/train/language_model_trainer_config.hpp"
#include "ssm/train/recorded_batches.hpp"
#include "ssm/train/text_windows.hpp"
#include "ssm/train/training_ranks.hpp"
#include "ssm/train/training_step.hpp"
#include "ssm/train/window_documents.hpp"
#include "ssm/train/working_parameters.hpp"

namespace ssm {

/// Trains a language model on windows of a text, one window of every row an update. With `carry`
/// the state at the end of a window is the past of the next (truncated backpropagation through
/// time), so that the model learns to run on and on.
/// With `document_end` a window may hold several documents, and none sees another: each is a packed
/// segment with a state of its own, the token that ends a document is predicted, and the first of
/// the next one is not. The loss is the mean over the tokens of an update that are predicted.
///   LanguageModelTrainer trainer(ctx, layer, parameters,
///                                {.batch = 16, .carry = 16, .optimizer = {.rate = 2e-3}});
///   trainer.update(ctx, layer, parameters, streams, schedule.rate(trainer.step()));
/// With sequences in T, bf16 or f16, `parameters` stay what is trained, in full precision; forward
/// and backward passes read a copy with its matrices in T, which the optimizer's pass writes, and
/// states, sums and the gradients of parameters are float. In f16 the loss is scaled, and a batch
/// whose gradient overflows is done again at half the scale. Nobody else may change the parameters
/// between updates, or must `refresh` the copy.
///   LanguageModelTrainer<Parameters, BFloat16> trainer(ctx, layer, parameters, config);
/// With `ranks` every rank has a trainer of its own with the same settings, and all call the same
/// functions. Batches are those of one rank alone, each rank reads its part of them; gradients and
/// losses are sums over the ranks, and every rank makes the same update. Losses are those of one
/// rank, to rounding, and with as many ranks the same bits in every run. Dropout differs by rank.
/// Everything random is a function of seeds and the number of the update: with the same parameters,
/// moments and states a run that was stopped makes the same updates, bit for bit on the same
/// backend and number of threads.
template <class P, class T = typename P::Scalar>
class LanguageModelTrainer {
  using L = typename P::Layer;
  using Space = typename P::Space;
  using Working = typename WorkingParameters<P, T>::Type;
  /// Models of one's own need not have the verbs for it.
  static constexpr bool takes_parts = requires { requires L::has_head_loss; };

 public:
  using Scalar = T;
  using State = StateOf<Working>;

  /// Throws  ArgumentError  for options outside their range
  template <class B>
  LanguageModelTrainer(Context<B>& ctx, const L& layer, const P& parameters,
                       LanguageModelTrainerConfig config)
      : config_(config),
        ranks_(config.ranks, config.sequence_parallel, std::max<Index>(config.batch, 1)),
        optimizer_(ctx, layer, parameters, config.optimizer,
                   config.shards_optimizer ? config.ranks : nullptr),
        working_(ctx, layer, parameters),
        gradients_(layer.template zero_parameters<Wide<T>>(ctx)),
        tape_(layer.template make_tape<T>(ctx)) {
    optimizer_.loss_scale() = LossScale::for_sequences<T>();
    if (config.batch < 1 || config.accumulation < 1 || config.carry < 1)
      throw ArgumentError("training: batch, accumulation and carry must be at least 1");
    if (config.logit_bytes < 1) throw ArgumentError("training: logit_bytes must be at least 1");
    if (config.document_end &&
        (*config.document_end < 0 || *config.document_end >= layer.vocabulary()))
      throw ArgumentError("training: the token " + std::to_string(*config.document_end) +
                          " that ends a document is outside the vocabulary of " +
                          std::to_string(layer.vocabulary()));
    if (config.recompute) {
      if constexpr (requires { tape_.backbone.recompute; })
        tape_.backbone.recompute = true;
      else
        throw ArgumentError("training: recompute is for models whose blocks are a stack");
    }
    if (config.carry > 1)
      for (Index microbatch = 0; microbatch < config.accumulation; ++microbatch)
        states_.push_back(layer.template initial_state<T>(ctx, rows()));
    if (ranks_.sequence() != nullptr && config.across_ranks == nullptr)
      throw ArgumentError(
          "training: windows that ranks share need across_ranks, as primitives_across_ranks<B>()");
    if (ranks_.all() != nullptr && !states_.empty())
      for_each_row_tensor<L>(states_.front(), rows(), [](auto, auto*, std::size_t) {});
  }

  /// One update at the learning rate `rate`. Where the loss or the gradient is not finite, the
  /// parameters stay as they were and the result says so.
  /// beside   numbers that become their sums over the ranks; they go with the loss, so that nothing
  ///          waits for them
  template <class B>
  TrainingStep update(Context<B>& ctx, const L& layer, P& parameters, const TextWindows& windows,
                      double rate, std::span<double> beside = {}) {
    if (windows.rows() != config_.batch * config_.accumulation)
      throw ArgumentError("training: " + std::to_string(windows.rows()) + " rows for " +
                          std::to_string(config_.batch * config_.accumulation) +
                          " windows an update");
    if (config_.carry > 1 && !windows.is_continued())
      throw ArgumentError("training: no state can be carried to a window somewhere else");
    resize(windows.length(), layer.padded_vocabulary());
    LossScale& scale = optimizer_.loss_scale();
    if (scale.is_dynamic()) copy_states(ctx, states_, states_before_);
    while (true) {
      sums_.assign(1, 0);
      sums_.insert(sums_.end(), beside.begin(), beside.end());
      const TrainingStep result = try_update(ctx, layer, parameters, windows, rate);
      const bool is_good = std::isfinite(result.loss) && std::isfinite(result.gradient_norm);
      if (is_good) scale.count_update();
      if (is_good || !scale.shrink()) {
        std::copy(sums_.begin() + 1, sums_.end(), beside.begin());
        return result;
      }
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
  /// Batches so far whose two passes were one launch; 0 on backends that record nothing.
  Index recorded_batches() const { return recorded_.launched(); }
  /// What is carried to the next window, one state for each batch of an update; none without
  /// `carry`.
  std::vector<State>& states() { return states_; }
  const std::vector<State>& states() const { return states_; }
  const TrainingRanks& ranks() const { return ranks_; }

 private:
  template <class B>
  TrainingStep try_update(Context<B>& ctx, const L& layer, P& parameters,
                          const TextWindows& windows, double rate) {
    set_zero(ctx, gradients_, true);
    const double predictions = predictions_of(windows);
    // Nothing on the host waits for the device before all is queued that can be; the losses of
    // several ranks are summed there.
    const bool is_alone = ranks_.all() == nullptr;
    const bool queues_all = is_alone || devices(ctx) != nullptr;
    bool is_applied = false;
    const auto begin_update = [&] {
      if (!is_alone && devices_beside(ctx) == nullptr) buckets_.sum(ctx, *ranks_.all(), gradients_);
      optimizer_.begin_update(ctx, parameters, gradients_, rate, working_.of(parameters));
    };
    const auto apply = [&](const View<const Wide<T>, 1, Space>& losses) {
      is_applied = std::isfinite(sums_[0]);
      if (is_applied) optimizer_.apply(ctx, parameters, working_.of(parameters), losses);
    };
    for (Index microbatch = 0; microbatch < config_.accumulation; ++microbatch) {
      const Index predicted = fill(ctx, windows, first_row(microbatch));
      const double weight = static_cast<double>(predicted) / predictions;
      Seed dropout =
          config_.seed.fork(static_cast<std::uint64_t>(step() * config_.accumulation + microbatch));
      if (ranks_.groups() > 1)
        dropout = dropout.fork(static_cast<std::uint64_t>(first_row(microbatch)));
      if (config_.document_end)
        accumulate_documents(ctx, layer, working_.of(parameters), windows, microbatch, dropout,
                             predicted, weight);
      else
        accumulate(ctx, layer, working_.of(parameters), tokens_.view(),
                   options_of(microbatch, dropout), predicted, weight, microbatch);
      arriving_loss_.start(ctx, loss_);
      if (queues_all && is_last(microbatch)) begin_update();
      if (is_alone && is_last(microbatch)) apply(loss_);
      if (!config_.document_end && !states_.empty())
        share_end(ctx, states_[static_cast<std::size_t>(microbatch)]);
      sums_[0] += batch_loss<B>(predicted) * weight;
    }
    ranks_.sum(sums_);
    if (!queues_all) begin_update();
    if (!is_alone) apply({});
    is_applied = is_applied && std::isfinite(sums_[0]);
    return {.loss = sums_[0], .gradient_norm = optimizer_.template end_update<B>(is_applied)};
  }
  template <class B>
  static void copy_states(Context<B>& ctx, const std::vector<State>& from, std::vector<State>& to) {
    to.resize(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) copy_state<L>(ctx, from[i], to[i]);
  }
  void resize(Index length, Index vocabulary) {
    const Index own = ranks_.stretch(length).length();
    for (auto* tokens : {&host_tokens_, &host_targets_}) tokens->resize({rows(), length});
    for (auto* tokens : {&tokens_, &targets_}) tokens->resize({rows(), own});
    logits_at_once_ = rows() * own;
    if constexpr (takes_parts)
      logits_at_once_ = HeadLoss<T, Space>::rows_for(rows() * own, vocabulary,
                                                     config_.logit_bytes / Index{sizeof(T)});
    loss_.resize(
        {in_parts() ? HeadLoss<T, Space>::parts(rows() * own, logits_at_once_) : Index{1}});
    logits_.resize({in_parts() ? 0 : rows(), own, vocabulary});
  }
  /// Rows of a batch that this rank reads, and the first of them.
  Index rows() const { return ranks_.rows(config_.batch).length(); }
  Index first_row(Index microbatch) const {
    return microbatch * config_.batch + ranks_.rows(config_.batch).begin;
  }
  Stretch stretch() const { return ranks_.stretch(host_tokens_.extent(1)); }
  /// Reads windows first, first + 1, …; returns how many of this rank's tokens are predicted.
  template <class B>
  Index fill(Context<B>& ctx, const TextWindows& windows, Index first) {
    const Index predicted = read(windows, first);
    const Stretch own = stretch();
    const std::size_t bytes = static_cast<std::size_t>(own.length()) * sizeof(Token);
    const auto copy_rows = [&](const auto& from, auto& to) {
      if (own.length() == from.extent(1))
        return ctx.copy(to.data(), from.data(), bytes * static_cast<std::size_t>(rows()));
      for (Index row = 0; row < rows(); ++row)
        ctx.copy(to.data() + row * own.length(), &from(row, 0) + own.begin, bytes);
    };
    copy_rows(host_tokens_, tokens_);
    copy_rows(host_targets_, targets_);
    return predicted;
  }
  Index read(const TextWindows& windows, Index first) {
    windows.fill(first, step(), host_tokens_, host_targets_);
    const Stretch own = stretch();
    Index predicted = rows() * own.length();
    if (!config_.document_end) return predicted;
    for (Index row = 0; row < rows(); ++row)
      for (Index t = 0; t < host_tokens_.extent(1); ++t)
        if (host_tokens_(row, t) == *config_.document_end) {
          host_targets_(row, t) = ignored;
          if (own.begin <= t && t < own.end) --predicted;
        }
    return predicted;
  }
  /// Of the whole update; at least 1.
  double predictions_of(const TextWindows& windows) {
    if (!config_.document_end)
      return static_cast<double>(config_.accumulation * config_.batch * host_tokens_.extent(1));
    Index sum = 0;
    for (Index microbatch = 0; microbatch < config_.accumulation; ++microbatch)
      sum += read(windows, first_row(microbatch));
    return std::max(ranks_.sum(static_cast<double>(sum)), 1.0);
  }
  SequenceOptions<State> options_of(Index microbatch, Seed dropout) {
    if (states_.empty()) return {.dropout = dropout};
    State& state = states_[static_cast<std::size_t>(microbatch)];
    return {
        .initial_state = is_fresh() ? nullptr : &state, .final_state = &state, .dropout = dropout};
  }
  bool is_fresh() const { return step() % config_.carry == 0; }

  /// `accumulate` with the documents of the batch as segments of one row. The first document of a
  /// window goes on where the window before ended, unless that ended with a document.
  template <class B>
  void accumulate_documents(Context<B>& ctx, const L& layer, const Working& parameters,
                            const TextWindows& windows, Index microbatch, Seed dropout,
                            Index predicted, double weight) {
    documents_.find(host_tokens_, stretch(), *config_.document_end);
    const Index positions = tokens_.size();
    const auto tokens = View<const Token, 2, Space>(tokens_.data(), {1, positions});
    SequenceOptions<State> options{.segments = documents_.offsets(), .dropout = dropout};
    if (states_.empty())
      return accumulate(ctx, layer, parameters, tokens, options, predicted, weight, microbatch);
    State& carried = states_[static_cast<std::size_t>(microbatch)];
    State packed = layer.template initial_state<T>(ctx, documents_.count());
    for (Index row = 0; row < rows() && !is_fresh(); ++row)
      if (goes_on_from_before(windows, first_row(microbatch) + row) &&
          documents_.begins_in_first(row))
        copy_state_row(ctx, layer, carried, row, packed, documents_.first_of(row));
    options.initial_state = options.final_state = &packed;
    accumulate(ctx, layer, parameters, tokens, options, predicted, weight, microbatch);
    for (Index row = 0; row < rows(); ++row)
      copy_state_row(ctx, layer, packed, documents_.last_of(row), carried, row);
    share_end(ctx, carried);
  }
  /// The state at the end of the window, which the last of the ranks that share it has.
  template <class B>
  void share_end(Context<B>& ctx, State& state) const {
    if (ranks_.sequence() == nullptr) return;
    broadcast_state<L>(ctx, *ranks_.sequence(), state, rows(), ranks_.sequence()->size() - 1);
  }
  /// Whether the window of this step begins in the document in which the one before it ended.
  bool goes_on_from_before(const TextWindows& windows, Index row) const {
    if (windows.begin_of(row, step()) != windows.begin_of(row, step() - 1) + windows.length())
      return false;  // a stream that began at the beginning of the text again
    const std::vector<Token> before = windows.window(row, step() - 1);
    return before[before.size() - 2] != *config_.document_end;
  }

  /// Adds the gradient of one batch, which is so much of the update, and leaves its loss. So many
  /// of its positions are predicted.
  template <class B>
  void accumulate(Context<B>& ctx, const L& layer, const Working& parameters,
                  const View<const Token, 2, Space>& tokens, const SequenceOptions<State>& options,
                  Index predicted, double weight, Index microbatch) {
    const SequenceCutScope<B> cut(ctx, cut_of(options));
    const double scale = optimizer_.loss_scale().value() * weight;
    const auto run = [&] {
      kept_.begin();
      if constexpr (takes_parts)
        if (in_parts())
          return run_in_parts(ctx, layer, parameters, tokens, options, predicted, scale,
                              microbatch);
      const View<T, 3, Space> logits(logits_.data(),
                                     {tokens.extent(0), tokens.extent(1), logits_.extent(2)});
      layer.forward(ctx, parameters, tokens, logits, tape_, options);
      const auto rows = as_rows(logits);
      cross_entropy(ctx, CrossEntropy<T, Space>{.logits = rows,
                                                .targets = targets_.flatten(),
                                                .ignore_index = ignored,
                                                .scale = scale,
                                                .loss = loss_,
                                                .dlogits = rows});
      backward(ctx, microbatch,
               [&] { layer.backward(ctx, parameters, tape_, logits, gradients_); });
    };
    if constexpr (records<B>)
      run_recorded(ctx, parameters, options, scale, in_parts() ? predicted : 0, microbatch, run);
    else
      run();
  }
  template <class B>
  void run_in_parts(Context<B>& ctx, const L& layer, const Working& parameters,
                    const View<const Token, 2, Space>& tokens,
                    const SequenceOptions<State>& options, Index predicted, double scale,
                    Index microbatch) {
    layer.evaluate_hidden(ctx, parameters, tokens, tape_, options);
    const HeadLoss<T, Space> loss{
        .targets = targets_.flatten(),
        .ignore_index = ignored,
        .scale = scale / static_cast<double>(std::max<Index>(predicted, 1)),
        .at_once = logits_at_once_,
        .losses = loss_};
    backward(ctx, microbatch,
             [&] { layer.differentiate_loss(ctx, parameters, tape_, loss, gradients_); });
  }
  /// The gradients of the first batch of an update start from zero, those of the last are summed
  /// over the ranks.
  template <class B, class Differentiate>
  void backward(Context<B>& ctx, Index microbatch, const Differentiate& differentiate) {
    kept_.begin_backward();
    UnwrittenGradients unwritten(ctx, gradients_, microbatch == 0);
    backward_and_sum(ctx, is_last(microbatch) ? devices_beside(ctx) : nullptr, gradients_,
                     differentiate);
    unwritten.finish();
    kept_.end();
  }
  /// Of the batch before, read on the host.
  template <class B>
  double batch_loss(Index predicted) {
    const auto losses = arriving_loss_.template wait<B>();
    const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
    return in_parts() ? sum / static_cast<double>(std::max<Index>(predicted, 1)) : sum;
  }
  /// Whether the logits of a batch are more than are held at once.
  bool in_parts() const { return logits_at_once_ < tokens_.size(); }

  /// How the ranks reach each other's devices; null where they do not.
  template <class B>
  DeviceCommunicator* devices(const Context<B>&) const {
    return queues<B> && ranks_.all() != nullptr ? ranks_.all()->on_device() : nullptr;
  }
  /// The same where they sum gradients beside the backward pass. Where windows are shared the pass
  /// itself waits for other ranks.
  template <class B>
  DeviceCommunicator* devices_beside(const Context<B>& ctx) const {
    return ranks_.sequence() == nullptr ? devices(ctx) : nullptr;
  }
  bool is_last(Index microbatch) const { return microbatch + 1 == config_.accumulation; }
  /// A window without a past is a recording of its own, and so is each batch of an update. With
  /// documents, whose boundaries change, with dropout, and across ranks nothing is recorded;
  /// neither is it while states grow, as attention's do.
  template <class B, class Run>
  void run_recorded(Context<B>& ctx, const Working& parameters,
                    const SequenceOptions<State>& options, double scale, Index predicted,
                    Index microbatch, const Run& run) {
    if (!recorded_.can_record() || !options.segments.empty() || ctx.sequence_cut() != nullptr)
      return run();
    RecordedBatch now{.context = &ctx,
                      .deallocations = Space::deallocations(),
                      .length = tokens_.extent(1),
                      .scale = scale,
                      .predicted = predicted,
                      .is_fresh = options.initial_state == nullptr,
                      .is_first = microbatch == 0,
                      .is_last = is_last(microbatch)};
    const auto add = [&](const auto&, const auto& tensor) { now.add(tensor); };
    for_each_parameter(add, parameters);
    now.add(tokens_);
    now.add(logits_);
    if (options.final_state != nullptr) L::for_each_state(add, *options.final_state);
    recorded_.run(ctx, now, 2 * static_cast<std::size_t>(config_.accumulation), run);
  }

  SequenceCut cut_of(const SequenceOptions<State>& options) {
    SequenceCut cut{.ranks = ranks_.sequence(),
                    .begin = stretch().begin,
                    .across_ranks = config_.across_ranks,
                    .kept = &kept_};
    if (!options.segments.empty()) cut.parts = documents_.parts();
    return cut;
  }

  static constexpr Token ignored = -100;

  LanguageModelTrainerConfig config_;
  TrainingRanks ranks_;
  GradientBuckets<typename P::Scalar> buckets_;
  AdamW<P> optimizer_;
  WorkingParameters<P, T> working_;
  P gradients_;
  TapeOf<Working> tape_;
  std::vector<double> sums_;  // over the ranks: the loss, and what goes beside it
  std::vector<State> states_, states_before_;
  WindowDocuments documents_;
  KeptStates kept_;  // where windows are shared
  DynamicTensor<Token, 2> host_tokens_, host_targets_;
  DynamicTensor<Token, 2, Space> tokens_, targets_;
  DynamicTensor<T, 3, Space> logits_;      // none where the loss is taken in parts
  Index logits_at_once_ = 0;               // positions of a part
  DynamicTensor<Wide<T>, 1, Space> loss_;  // of each part
  Arriving<Wide<T>> arriving_loss_;
  RecordedBatches recorded_;
};

}  // namespace ssm
