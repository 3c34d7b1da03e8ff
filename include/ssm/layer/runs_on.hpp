// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/layer/operand.hpp"  // InputOf

namespace ssm {

/// Whether layer L runs on backend B with parameters in T: whether B has the primitives that L's `evaluate` requires.
template <class L, class B, class T = float>
concept RunsOn = requires(const L& layer, Context<B>& ctx,
                          const typename L::template Parameters<T, typename B::Space>& parameters,
                          InputOf<L, T, typename B::Space> x, View<T, 3, typename B::Space> y,
                          typename L::template Tape<T, typename B::Space>* tape) {
  layer.evaluate(ctx, parameters, x, y, tape);
};

}  // namespace ssm
