// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "ssm/core/elementwise.hpp"  // TensorLike
#include "ssm/layer/widths.hpp"
#include "ssm/model/model.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/gradient_buckets.hpp"
#include "ssm/train/training_ranks.hpp"
#include "ssm/train/training_step.hpp"
#include "ssm/train/working_parameters.hpp"

namespace ssm {

/// What one update does otherwise than the trainer's configuration says; all may be left out.
template <class P>
struct UpdateOptions {
  std::optional<double> rate = {};  // the learning rate of this update, a schedule's for example
  Segments segments = {};           // packed sequences
  const StateOf<P>* initial_state = nullptr;
  StateOf<P>* final_state = nullptr;
};

/// Trains a model on any loss of its outputs. It owns what must fit together for that: gradients,
/// tape, optimizer, and room for the outputs.
///   Trainer trainer(ctx, model, {.rate = 1e-3});
///   trainer.update(x, [&](auto y, auto dy) { return mean_squared_error(ctx, y, target, dy); });
/// With sequences in T, bf16 or f16, it trains the model's parameters in full precision, and
/// forward and backward passes read a copy with its matrices in T; x may be of T or of the
/// parameters' scalar, the loss sees y and dy in the latter. In f16 the loss is scaled, and an
/// update whose gradient overflows is left out: the next has half the scale.
///   auto trainer = mixed_precision_trainer<BFloat16>(ctx, model, {.rate = 1e-3});
/// Several ranks train one model together (`share`): each has a trainer of its own and reads its
/// part of every batch.
/// The context and the model must outlive it. Dropout is a function of `seed` and the number of the
/// update: with the same parameters and moments, a run that was stopped makes the same updates.
template <class B, class P, class T = typename P::Scalar>
class Trainer {
  using L = typename P::Layer;
  using Space = typename P::Space;
  using Working = typename WorkingParameters<P, T>::Type;
  static constexpr bool is_mixed = !std::is_same_v<T, Wide<T>>;

 public:
  /// Throws  ArgumentError  for options outside their range, or weights that are kept in bf16 or
  ///                        int8
  Trainer(Context<B>& ctx, Model<P>& model, AdamWConfig config = {}, Seed seed = {})
      : ctx_(ctx),
        model_(model),
        seed_(seed),
        optimizer_(ctx, model.layer, model.parameters, config),
        working_(ctx, model.layer, model.parameters),
        gradients_(model.layer.template zero_parameters<Wide<T>>(ctx)),
        tape_(model.layer.template make_tape<T>(ctx)) {
    optimizer_.loss_scale() = LossScale::for_sequences<T>();
  }

  /// One update. `loss(y, dy)` returns the loss of the outputs y and writes its gradient to dy,
  /// which is zero before; a loss that looks at some positions alone writes those. Where the loss
  /// or the gradient is not finite, the parameters stay as they were and the result says so.
  /// x       [B, L, inputs], or the tokens of a language model [B, L]
  /// y, dy   [B, L, outputs]
  template <TensorLike X, class Loss>
  TrainingStep update(const X& x, Loss&& loss, const UpdateOptions<Working>& options = {}) {
    const auto input = without_gaps(view_of(x));
    for (auto* sequence : {&y_, &dy_})
      sequence->resize({input.extent(0), input.extent(1), output_width()});
    model_.layer.forward(ctx_, working_.of(model_.parameters), input, y_, tape_,
                         SequenceOptions<StateOf<Working>>{.segments = options.segments,
                                                           .initial_state = options.initial_state,
                                                           .final_state = options.final_state,
                                                           .dropout = dropout()});
    TrainingStep result;
    result.loss = loss_of_outputs(loss);
    set_zero(ctx_, gradients_, true);
    UnwrittenGradients unwritten(ctx_, gradients_);
    backward(input);
    unwritten.finish();
    if (ranks_ != nullptr) {
      const double part = 1.0 / ranks_->size();
      result.loss *= part;
      ranks_->sum(std::span(&result.loss, 1));
      buckets_.sum(ctx_, *ranks_, gradients_, part);
    }
    result.gradient_norm = std::isfinite(result.loss)
                               ? optimizer_.update(ctx_, model_.parameters, gradients_,
                                                   options.rate.value_or(optimizer_.config().rate),
                                                   working_.of(model_.parameters))
                               : optimizer_.gradient_norm(ctx_, gradients_);
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm))
      optimizer_.loss_scale().count_update();
    else
      optimizer_.loss_scale().shrink();
    return result;
  }

  /// From here on every rank calls `update` with its own part of a batch, and all parts count
  /// alike: losses and gradients are their means, and each rank makes the same update of the same
  /// parameters. The communicator must outlive the trainer.
  void share(Communicator& ranks) { ranks_ = &ranks; }

  /// Updates made so far.
  Index step() const { return optimizer_.step(); }
  AdamW<P>& optimizer() { return optimizer_; }
  const AdamW<P>& optimizer() const { return optimizer_; }
  /// Of the last update.
  const P& gradients() const { return gradients_; }

 private:
  Seed dropout() const {
    const Seed seed = seed_.fork(static_cast<std::uint64_t>(step()));
    return ranks_ == nullptr ? seed : seed.fork(static_cast<std::uint64_t>(ranks_->rank()));
  }
  const Working& parameters() const {
    return working_.of(static_cast<const P&>(model_.parameters));
  }
  Index output_width() const {
    if constexpr (requires(const L& layer) { layer.padded_vocabulary(); })
      return model_.layer.padded_vocabulary();
    else
      return output_channels(model_.layer);
  }
  /// The loss in full precision, and its gradient in `dy_`.
  template <class Loss>
  double loss_of_outputs(Loss& loss) {
    if constexpr (is_mixed) {
      for (auto* sequence : {&wide_y_, &wide_dy_}) sequence->resize(y_.extents());
      convert(ctx_, Convert<T, Wide<T>, Space>{.x = y_, .y = wide_y_});
      fill(ctx_, Fill<Wide<T>, Space>{.y = wide_dy_.flatten()});
      const double result =
          loss(View<const Wide<T>, 3, Space>(wide_y_), View<Wide<T>, 3, Space>(wide_dy_));
      const auto gradient = wide_dy_.flatten();
      if (optimizer_.loss_scale().value() != 1)
        add(ctx_, Add<Wide<T>, Space>{
                      .a = gradient, .a_scale = optimizer_.loss_scale().value(), .y = gradient});
      convert(ctx_, Convert<Wide<T>, T, Space>{.x = wide_dy_, .y = dy_});
      return result;
    } else {
      fill(ctx_, Fill<T, Space>{.y = dy_.flatten()});
      return loss(View<const T, 3, Space>(y_), View<T, 3, Space>(dy_));
    }
  }
  /// Windows of longer sequences are copied: what a tape refers to lies in one piece. So are those
  /// in another scalar.
  template <class X>
  auto without_gaps(const X& x) {
    if constexpr (X::rank() == 3 && !std::is_same_v<typename X::Value, T>) {
      x_.resize(DynamicExtents<3>(x.extent(0), x.extent(1), x.extent(2)));
      convert(ctx_, Convert<typename X::Value, T, Space>{.x = x, .y = x_});
      return View<const T, 3, Space>(x_);
    } else if constexpr (X::rank() == 3) {
      View<const T, 3, Space> input = x;
      if (!input.is_contiguous()) {
        x_.resize(input.extents());
        rearrange(ctx_, Rearrange<T, Space>{.x = input, .y = x_});
        input = x_;
      }
      return input;
    } else {
      return x;
    }
  }
  template <class X>
  void backward(const X& x) {
    if constexpr (X::rank() == 2) {  // tokens have no gradient
      model_.layer.backward(ctx_, parameters(), tape_, dy_, gradients_);
    } else {
      dx_.resize(x.extents());
      model_.layer.backward(ctx_, parameters(), tape_, dy_, dx_, gradients_);
    }
  }

  Context<B>& ctx_;
  Model<P>& model_;
  Seed seed_;
  AdamW<P> optimizer_;
  WorkingParameters<P, T> working_;
  P gradients_;
  Communicator* ranks_ = nullptr;
  GradientBuckets<typename P::Scalar> buckets_;
  TapeOf<Working> tape_;
  DynamicTensor<T, 3, Space> x_, y_, dy_, dx_;
  DynamicTensor<Wide<T>, 3, Space> wide_y_, wide_dy_;  // of mixed precision
};

/// A trainer whose sequences are in T, a half type.
template <class T, class B, class P>
Trainer<B, P, T> mixed_precision_trainer(Context<B>& ctx, Model<P>& model, AdamWConfig config = {},
                                         Seed seed = {}) {
  return {ctx, model, config, seed};
}

}  // namespace ssm
