// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "ssm/core/parameter.hpp"
#include "ssm/layer/layer.hpp"  // StateOf

namespace ssm {

/// A layer and its weights together: what a checkpoint gives, a trainer trains, and generation
/// takes. Its verbs are the layer's, with the weights in their place.
///   Model model{layer, layer.initialize(ctx, Seed{1})};
///   model.forward(ctx, x, y);
template <class P>
struct Model {
  using Scalar = typename P::Scalar;
  using Space = typename P::Space;

  typename P::Layer layer;
  P parameters;

  /// Whole sequences, in parallel.
  template <class B, class X, class Y>
  void forward(Context<B>& ctx, const X& x, Y&& y,
               const SequenceOptions<StateOf<P>>& options = {}) const {
    layer.forward(ctx, parameters, x, std::forward<Y>(y), options);
  }
  /// A chunk of any length; advances `state`.
  template <class B, class X, class Y, class State>
  void prefill(Context<B>& ctx, const X& x, Y&& y, State& state) const {
    layer.prefill(ctx, parameters, x, std::forward<Y>(y), state);
  }
  /// One position; advances `state`.
  template <class B, class X, class Y, class State>
  void step(Context<B>& ctx, const X& x_t, Y&& y_t, State& state) const {
    layer.step(ctx, parameters, x_t, std::forward<Y>(y_t), state);
  }
  /// The state before the first position.
  template <class B>
  auto initial_state(const Context<B>& ctx, Index sequences) const {
    return layer.template initial_state<Scalar>(ctx, sequences);
  }
};

template <class L, class P>
Model(L, P) -> Model<P>;

}  // namespace ssm
