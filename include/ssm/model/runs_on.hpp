// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/scalar.hpp"

namespace ssm {
/// Placeholder until the exact concept lands.
template <class L, class B>
concept RunsOn = requires(const L& layer, Context<B>& ctx,
                          const typename L::template Parameters<float, typename B::Space>& p,
                          View<const Token, 2, typename B::Space> x,
                          View<float, 3, typename B::Space> y,
                          typename L::template Tape<float, typename B::Space>* tape) {
  layer.evaluate(ctx, p, x, y, tape);
};
}  // namespace ssm
