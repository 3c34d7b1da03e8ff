// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "ssm/layer/layer.hpp"
#include "ssm/op/dropout.hpp"

namespace ssm {

/// A layer's own dropout, while it is trained: nothing happens without a tape and without a seed,
/// which only a call that asks for it brings (SequenceOptions::dropout).
class LayerDropout {
 public:
  /// The seed of a call that dropped something.
  using Tape = std::optional<Seed>;

  LayerDropout() = default;
  /// `layer` is named in the error.
  /// Throws  ArgumentError  unless 0 ≤ probability < 1
  LayerDropout(const char* layer, double probability) : probability_(probability) {
    if (!(probability >= 0 && probability < 1))
      throw ArgumentError(message({layer, ": dropout must be in [0, 1)"}));
  }

  /// Whether a call with this tape and seed drops anything.
  bool drops(const Tape* tape, const std::optional<Seed>& seed) const {
    return tape != nullptr && probability_ > 0 && seed;
  }

  /// Drops elements of x, and keeps the seed on the tape.
  /// x    contiguous, changed in place
  /// Throws  ArgumentError  where a backend without dropout is asked for some
  template <class B, class V>
  void evaluate(Context<B>& ctx, const V& x, Tape* tape, const std::optional<Seed>& seed) const {
    if (tape == nullptr) return;
    *tape = probability_ > 0 ? seed : std::nullopt;
    if (*tape) drop(ctx, **tape, x, x);
  }

  /// dx    contiguous, the gradient of what was dropped from; changed in place
  template <class B, class V>
  void differentiate(Context<B>& ctx, const Tape& tape, const V& dx) const {
    if (tape) drop(ctx, *tape, dx, dx);
  }
  /// The same where dy is to stay as it is: in memory of the frame, or dy itself where nothing was
  /// dropped.
  template <class T, class B, class Frame>
  View<const T, 3, typename B::Space> differentiated(
      Context<B>& ctx, Frame& frame, const Tape& tape,
      std::type_identity_t<View<const T, 3, typename B::Space>> dy) const {
    if (!tape) return dy;
    const View<T, 3, typename B::Space> dx = frame.template tensor<T>(dy.extents());
    drop(ctx, *tape, dy, dx);
    return dx;
  }

 private:
  template <class B, class X, class Y>
  void drop(Context<B>& ctx, Seed seed, const X& x, const Y& y) const {
    using T = typename Y::Value;
    if constexpr (HasDropout<B, T>)
      dropout(ctx,
              Dropout<T, typename B::Space>{
                  .probability = probability_, .seed = seed, .x = x.flatten(), .y = y.flatten()});
    else
      throw ArgumentError("dropout: the backend has none");
  }

  double probability_ = 0;
};

}  // namespace ssm
