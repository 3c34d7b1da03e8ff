// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/layer.hpp"

namespace ssm::laws {

/// What calls of a layer's `evaluate` and `differentiate` on a backend are written with; never
/// made.
template <class L, class B, class T>
struct Operands {
  using Space = typename B::Space;
  Context<B>& ctx;
  const L& layer;
  const typename L::template Parameters<T, Space>& parameters;
  typename L::template Parameters<T, Space>& gradients;
  typename L::template Tape<T, Space>& tape;
  InputOf<L, T, Space> x;
  View<T, 3, Space> y;
  View<const T, 3, Space> dy;
  View<T, 3, Space> dx;
};

/// Whether the calls pass their constraints. Bodies are not looked at.
template <class L, class B, class T>
constexpr bool may_evaluate = requires(Operands<L, B, T> o) {
  o.layer.evaluate(o.ctx, o.parameters, o.x, o.y, nullptr);
  o.layer.evaluate(o.ctx, o.parameters, o.x, o.y, &o.tape);
};
template <class L, class B, class T>
constexpr bool may_differentiate = requires(Operands<L, B, T> o) {
  o.layer.differentiate(o.ctx, o.parameters, o.tape, o.dy, o.dx, o.gradients);
};
template <class L, class B, class T>
  requires ReadsTokens<L>
constexpr bool may_differentiate<L, B, T> = requires(Operands<L, B, T> o) {
  o.layer.differentiate(o.ctx, o.parameters, o.tape, o.dy, o.gradients);
};

/// Whether RunsOn holds if both calls do, and does not if neither does.
template <class L, class B, class T>
constexpr bool runs_on_is_exact = (RunsOn<L, B, T> == may_evaluate<L, B, T> &&
                                   RunsOn<L, B, T> == may_differentiate<L, B, T>);

}  // namespace ssm::laws
