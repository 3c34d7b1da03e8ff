// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm {

/// Copies between layouts: y[i,j,k] = x[i,j,k], whatever the strides of either.
/// x, y   [I, J, K]   y overwritten; must not overlap x
/// Throws  ShapeError  if extents differ
template <class T, class Space>
struct Rearrange {
  View<const T, 3, Space> x{};
  View<T, 3, Space> y{};
};

/// A sum of two tensors: y = a_scale·a + b_scale·b. b may be left out.
/// a, b, y   [n]   y overwritten; may be the same memory as a or b
/// Throws  ShapeError  if extents differ
template <class T, class Space>
struct Add {
  View<const T, 1, Space> a{};
  View<const T, 1, Space> b{};
  double a_scale = 1;
  double b_scale = 1;
  View<T, 1, Space> y{};
};

/// Writes one value everywhere.
/// y   [n]   overwritten
template <class T, class Space>
struct Fill {
  double value = 0;
  View<T, 1, Space> y{};
};

/// Backends that have the primitive Rearrange.
template <class B, class T = float>
concept HasRearrange = requires(Context<B>& ctx, const Rearrange<T, typename B::Space>& r,
                                const Add<T, typename B::Space>& a,
                                const Fill<T, typename B::Space>& f) {
  B::rearrange(ctx, r);
  B::add(ctx, a);
  B::fill(ctx, f);
};

/// Computes Rearrange, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void rearrange(Context<B>& ctx, const Rearrange<T, typename B::Space>& a) {
  require_extents("rearrange", "x", a.x, {dyn, dyn, dyn});
  require_extents("rearrange", "y", a.y, a.x.extents().to_array());
  B::rearrange(ctx, a);
}

/// Computes Add, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void add(Context<B>& ctx, const Add<T, typename B::Space>& a) {
  require_extents("add", "a", a.a, {dyn});
  require_extents_if_given("add", "b", a.b, {a.a.extent(0)});
  require_extents("add", "y", a.y, {a.a.extent(0)});
  B::add(ctx, a);
}

/// Computes Fill, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void fill(Context<B>& ctx, const Fill<T, typename B::Space>& a) {
  require_extents("fill", "y", a.y, {dyn});
  B::fill(ctx, a);
}

}  // namespace ssm
