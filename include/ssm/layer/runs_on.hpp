// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/layer/operand.hpp"  // InputOf

namespace ssm {

/// Whether a layer's verbs, forward, backward, prefill and step, compile for backend B in scalar T:
/// whether the backend has the primitives that the layer calls.
///   static_assert(RunsOn<Mamba<MambaConfig{.channels = 256}>, Cpu>);
/// A layer says so by
///   template <class B, class T> static constexpr bool runs_on = …;
template <class L, class B, class T = float>
concept RunsOn = bool{L::template runs_on<B, T>};

namespace detail {
/// Whether the constraints of L's `evaluate` hold: what is known of a layer that has no `runs_on`.
template <class L, class B, class T>
concept Evaluates =
    requires(const L& layer, Context<B>& ctx,
             const typename L::template Parameters<T, typename B::Space>& parameters,
             InputOf<L, T, typename B::Space> x, View<T, 3, typename B::Space> y,
             typename L::template Tape<T, typename B::Space>* tape) {
  layer.evaluate(ctx, parameters, x, y, tape);
};
}  // namespace detail

}  // namespace ssm
