// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "ssm/core/recording.hpp"
#include "ssm/core/weight.hpp"
#include "ssm/train/gradients.hpp"
#include "ssm/train/loss_scale.hpp"
#include "ssm/train/optimizer_shard.hpp"

namespace ssm {

struct AdamWConfig {
  double rate = 1e-3;
  double ssm_rate = 0;  // of SSM dynamics, which the H3 recipes hold to 1e-3; 0: the same as rate
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.1;            // of weights and embeddings; SSM dynamics are never decayed
  bool decay_norms_and_biases = false;  // true: these are decayed too
  double clip_norm = 0;                 // of all gradients together; 0: no clipping
};

/// AdamW over a parameter struct, with groups: SSM dynamics (ParameterSpec::weight_decay is false)
/// are never decayed, norms and biases only where the configuration says so, and what
/// ParameterSpec::own_learning_rate marks moves at ssm_rate.
///   AdamW optimizer(ctx, layer, parameters, {.rate = 6e-4, .clip_norm = 1});
///   optimizer.update(ctx, parameters, gradients, schedule.rate(step));
/// Gradients are first scaled by min(1, clip_norm / (‖g‖ + 1e-6)).
/// With `shards` each of these ranks keeps the moments of a part of the parameters, and updates it
/// for all: the numbers are the same, to the bit.
/// Cost    one pass over the gradients, and one over parameters, gradients and both moments; no
///         memory for tensors after the constructor
/// Source  Loshchilov & Hutter 2019; Fu et al. 2023 (H3), appendix; see AdamWUpdate for the formula
template <class P>
class AdamW {
 public:
  /// Throws  ArgumentError  for options outside their range, or weights that are kept in bf16 or
  ///                        int8
  template <class B, class L>
  AdamW(Context<B>& ctx, const L& layer, const P& parameters, AdamWConfig config = {},
        Communicator* shards = nullptr)
      : config_(config), sum_of_squares_(DynamicExtents<1>(1)) {
    if (shards != nullptr && shards->size() > 1) {
      shard_.emplace(*shards, parameters);
    } else {
      first_moment_ = layer.template zero_parameters<typename P::Scalar>(ctx);
      second_moment_ = layer.template zero_parameters<typename P::Scalar>(ctx);
    }
    const bool valid = config.rate > 0 && config.ssm_rate >= 0 && config.beta1 >= 0 &&
                       config.beta1 < 1 && config.beta2 >= 0 && config.beta2 < 1 &&
                       config.eps > 0 && config.weight_decay >= 0 && config.clip_norm >= 0;
    if (!valid)
      throw ArgumentError("AdamW: rates, betas, eps, decay and clip_norm must be in range");
    if (weight_form(parameters) != WeightForm::full)
      detail::refuse_training_of_rounded_weights("AdamW");
    if (config_.ssm_rate == 0) config_.ssm_rate = config_.rate;
  }

  /// The norm of all gradients together, without the loss scale.
  template <class B>
  double gradient_norm(Context<B>& ctx, const P& gradients) {
    return global_norm(ctx, gradients, sum_of_squares_, squares_) / loss_scale_.value();
  }

  /// One update at the learning rate `rate` (tensors with their own rate: scaled alike). Returns
  /// the norm of all gradients before clipping; where it is not finite, nothing is changed and the
  /// update does not count.
  /// Throws  ArgumentError  for weights that are not in full precision
  template <HasOptimizerUpdate B>
  double update(Context<B>& ctx, P& parameters, const P& gradients, double rate) {
    return update(ctx, parameters, gradients, rate, parameters);
  }
  /// The same with a working copy of the parameters, its matrices in another scalar, which the same
  /// pass writes.
  template <HasOptimizerUpdate B, class Working>
  double update(Context<B>& ctx, P& parameters, const P& gradients, double rate, Working& working) {
    begin_update(ctx, parameters, gradients, rate, working);
    apply(ctx, parameters, working);
    return end_update<B>();
  }
  /// An update in parts. The first two read nothing on the host: a device goes on from the
  /// gradients' norm to the update by itself. The operands must stay until the end.
  template <HasOptimizerUpdate B, class Working>
  void begin_update(Context<B>& ctx, P& parameters, const P& gradients, double rate,
                    Working& working) {
    if (weight_form(parameters) != WeightForm::full)
      detail::refuse_training_of_rounded_weights("AdamW");
    sum_squares(ctx, gradients, sum_of_squares_, squares_);
    arriving_.start(ctx, sum_of_squares_);
    updates_.clear();
    const auto add = [&](const ParameterSpec& spec, const auto& parameter, const auto& gradient,
                         const auto& first, const auto& second, const auto& copy) {
      const bool is_vector = spec.role == ParameterRole::bias || spec.role == ParameterRole::norm;
      const bool decays = spec.weight_decay && (config_.decay_norms_and_biases || !is_vector);
      Update a{.rate = spec.own_learning_rate ? rate * (config_.ssm_rate / config_.rate) : rate,
               .beta1 = config_.beta1,
               .beta2 = config_.beta2,
               .eps = config_.eps,
               .weight_decay = decays ? config_.weight_decay : 0,
               .gradient_scale = 1 / loss_scale_.value(),
               .clip_norm = config_.clip_norm,
               .step = step_ + 1,
               .parameter = parameter,
               .gradient = gradient,
               .first_moment = first,
               .second_moment = second,
               .squares = sum_of_squares_};
      using Copied = typename std::remove_cvref_t<decltype(copy)>::Value;
      if constexpr (std::is_same_v<Copied, typename P::Scalar>) {
        if (copy.data() != parameter.data()) a.copied = copy;
      }
      if constexpr (std::is_same_v<Copied, BFloat16>) a.rounded_bf16 = copy;
      if constexpr (std::is_same_v<Copied, Float16>) a.rounded_f16 = copy;
      updates_.push_back(a);
    };
    if (shard_) {
      std::size_t i = 0;
      for_each_parameter(
          [&](const ParameterSpec& spec, auto& parameter, const auto& gradient, auto& copy) {
            const auto& own = shard_->own(i++);
            if (own.length() == 0) return;
            const auto part = [&](auto& tensor) {
              return tensor.flatten().slice(0, own.begin, own.end);
            };
            add(spec, part(parameter), part(gradient), shard_->first(own), shard_->second(own),
                part(copy));
          },
          parameters, gradients, working);
    } else {
      for_each_parameter(
          [&](const ParameterSpec& spec, auto& parameter, const auto& gradient, auto& first,
              auto& second, auto& copy) {
            add(spec, parameter.flatten(), gradient.flatten(), first.flatten(), second.flatten(),
                copy.flatten());
          },
          parameters, gradients, first_moment_, second_moment_, working);
    }
    for (const Update& a : updates_) require_operands(a);
  }
  /// Makes the update, where the norm is finite and the losses are.
  template <HasOptimizerUpdate B, class Working>
  void apply(Context<B>& ctx, P& parameters, Working& working,
             const std::type_identity_t<View<const typename P::Scalar, 1, typename P::Space>>&
                 losses = {}) {
    for (Update& a : updates_) a.losses = losses;
    adamw_update_unchecked<B, typename P::Scalar>(ctx, std::span<const Update>(updates_));
    if (shard_) {
      shard_->share(ctx, parameters);
      if constexpr (!std::is_same_v<P, Working>) shard_->share(ctx, working);
    }
  }
  /// Returns as `update`. is_applied: the losses were finite, and `apply` has been called.
  template <HasOptimizerUpdate B>
  double end_update(bool is_applied = true) {
    const double norm = std::sqrt(arriving_.template wait<B>()[0]) / loss_scale_.value();
    if (is_applied && std::isfinite(norm)) ++step_;
    return norm;
  }
  template <HasOptimizerUpdate B>
  double update(Context<B>& ctx, P& parameters, const P& gradients) {
    return update(ctx, parameters, gradients, config_.rate);
  }

  const AdamWConfig& config() const { return config_; }
  /// Of all parameters; none where ranks share them.
  P& first_moment() { return first_moment_; }
  P& second_moment() { return second_moment_; }
  const P& first_moment() const { return first_moment_; }
  const P& second_moment() const { return second_moment_; }

  /// This rank's part of the moments; none where it has all.
  std::optional<OptimizerShard<P>>& shard() { return shard_; }
  const std::optional<OptimizerShard<P>>& shard() const { return shard_; }

  /// How many updates have been made; set when training resumes.
  Index step() const { return step_; }
  void set_step(Index step) { step_ = step; }
  /// What the gradients given to `update` are too large by; 1 unless a trainer sets it.
  LossScale& loss_scale() { return loss_scale_; }
  const LossScale& loss_scale() const { return loss_scale_; }

 private:
  using Update = AdamWUpdate<typename P::Scalar, typename P::Space>;

  AdamWConfig config_;
  P first_moment_;
  P second_moment_;
  std::optional<OptimizerShard<P>> shard_;
  DynamicTensor<double, 1, typename P::Space> sum_of_squares_;
  std::vector<SumOfSquares<typename P::Scalar, typename P::Space>> squares_;  // scratch
  std::vector<Update> updates_;                                               // scratch
  Arriving<double> arriving_;                                                 // the sum of squares
  Index step_ = 0;
  LossScale loss_scale_;
};

}  // namespace ssm
