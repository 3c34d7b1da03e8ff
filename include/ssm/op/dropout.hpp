// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/random.hpp"

namespace ssm {

/// Sets elements to zero at random and scales the rest, so that the expectation stays.
///   y[i] = x[i] / (1 − probability)  where number i of the seed's stream is ≥ probability, else 0
/// The mask is a function of the seed, so the gradient is the same call on dy.
/// x, y   [n]   y overwritten; may be the same memory as x
/// Throws  ShapeError; ArgumentError  unless 0 ≤ probability < 1
/// Source  Srivastava et al. 2014
template <class T, class Space>
struct Dropout {
  double probability = 0;
  Seed seed{};
  View<const T, 1, Space> x{};
  View<T, 1, Space> y{};
};

/// Backends that have the primitive Dropout.
template <class B, class T = float>
concept HasDropout = requires(Context<B>& ctx, const Dropout<T, typename B::Space>& a) {
  B::dropout(ctx, a);
};

/// Computes Dropout, whose docstring says the rest.
template <class B, class T>
  requires HasDropout<B, T>
void dropout(Context<B>& ctx, const Dropout<T, typename B::Space>& a) {
  require_extents("dropout", "x", a.x, {dyn});
  require_extents("dropout", "y", a.y, {a.x.extent(0)});
  if (!(a.probability >= 0 && a.probability < 1))
    throw ArgumentError("dropout: probability must be in [0, 1)");
  B::dropout(ctx, a);
}

}  // namespace ssm
