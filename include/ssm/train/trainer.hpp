// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "ssm/core/elementwise.hpp"  // TensorLike
#include "ssm/layer/widths.hpp"
#include "ssm/model/model.hpp"
#include "ssm/train/adamw.hpp"
#include "ssm/train/training_step.hpp"

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
/// The context and the model must outlive it. Dropout is a function of `seed` and the number of the
/// update: with the same parameters and moments, a run that was stopped makes the same updates.
template <class B, class P>
class Trainer {
  using L = typename P::Layer;
  using T = typename P::Scalar;
  using Space = typename P::Space;

 public:
  /// Throws  ArgumentError  for options outside their range, or weights that are kept in bf16
  Trainer(Context<B>& ctx, Model<P>& model, AdamWConfig config = {}, Seed seed = {})
      : ctx_(ctx),
        model_(model),
        seed_(seed),
        optimizer_(ctx, model.layer, model.parameters, config),
        gradients_(model.layer.template zero_parameters<T>(ctx)),
        tape_(model.layer.template make_tape<T>(ctx)) {}

  /// One update. `loss(y, dy)` returns the loss of the outputs y and writes its gradient to dy,
  /// which is zero before; a loss that looks at some positions alone writes those. Where the loss
  /// or the gradient is not finite, the parameters stay as they were and the result says so.
  /// x       [B, L, inputs], or the tokens of a language model [B, L]
  /// y, dy   [B, L, outputs]
  template <TensorLike X, class Loss>
  TrainingStep update(const X& x, Loss&& loss, const UpdateOptions<P>& options = {}) {
    const auto input = without_gaps(view_of(x));
    for (auto* sequence : {&y_, &dy_})
      sequence->resize({input.extent(0), input.extent(1), output_width()});
    model_.layer.forward(
        ctx_, model_.parameters, input, y_, tape_,
        SequenceOptions<StateOf<P>>{.segments = options.segments,
                                    .initial_state = options.initial_state,
                                    .final_state = options.final_state,
                                    .dropout = seed_.fork(static_cast<std::uint64_t>(step()))});
    fill(ctx_, Fill<T, Space>{.y = dy_.flatten()});
    TrainingStep result;
    result.loss = loss(View<const T, 3, Space>(y_), View<T, 3, Space>(dy_));
    set_zero(ctx_, gradients_);
    backward(input);
    result.gradient_norm = global_norm(ctx_, gradients_);
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm))
      optimizer_.update(ctx_, model_.parameters, gradients_,
                        options.rate.value_or(optimizer_.config().rate));
    return result;
  }

  /// Updates made so far.
  Index step() const { return optimizer_.step(); }
  AdamW<P>& optimizer() { return optimizer_; }
  const AdamW<P>& optimizer() const { return optimizer_; }
  /// Of the last update.
  const P& gradients() const { return gradients_; }

 private:
  Index output_width() const {
    if constexpr (requires(const L& layer) { layer.padded_vocabulary(); })
      return model_.layer.padded_vocabulary();
    else
      return output_channels(model_.layer);
  }
  /// Windows of longer sequences are copied: what a tape refers to lies in one piece.
  template <class X>
  auto without_gaps(const X& x) {
    if constexpr (X::rank() == 3) {
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
      model_.layer.backward(ctx_, model_.parameters, tape_, dy_, gradients_);
    } else {
      dx_.resize(x.extents());
      model_.layer.backward(ctx_, model_.parameters, tape_, dy_, dx_, gradients_);
    }
  }

  Context<B>& ctx_;
  Model<P>& model_;
  Seed seed_;
  AdamW<P> optimizer_;
  P gradients_;
  TapeOf<P> tape_;
  DynamicTensor<T, 3, Space> x_, y_, dy_, dx_;
};

}  // namespace ssm
