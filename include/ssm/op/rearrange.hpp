// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

/// Copies between layouts: y[i,j,k] = x[i,j,k], whatever the strides of either.
/// x, y   [I, J, K]   y overwritten; must not overlap x
/// Throws  ShapeError  if extents differ
template <class T, class Space>
struct Rearrange {
  View<const T, 3, Space> x{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "rearrange";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "IJK"), &Rearrange::x, nullptr);
    visit(output("y", "IJK"), &Rearrange::y, nullptr);
  }
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

  static constexpr const char* name = "add";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("a", "N"), &Add::a, nullptr);
    visit(input("b", "N").optional(), &Add::b, nullptr);
    visit(output("y", "N"), &Add::y, nullptr);
  }
};

/// Writes one value everywhere.
/// y   [n]   overwritten
template <class T, class Space>
struct Fill {
  double value = 0;
  View<T, 1, Space> y{};

  static constexpr const char* name = "fill";
  static constexpr void for_each_operand(auto&& visit) {
    visit(output("y", "N"), &Fill::y, nullptr);
  }
};

/// Backends that have the primitive Rearrange.
template <class B, class T = float>
concept HasRearrange = requires(Context<B>& ctx, const Rearrange<Wide<T>, typename B::Space>& r,
                                const Add<Wide<T>, typename B::Space>& a,
                                const Fill<Wide<T>, typename B::Space>& f) {
  B::rearrange(ctx, r);
  B::add(ctx, a);
  B::fill(ctx, f);
};

/// Computes Rearrange, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void rearrange(Context<B>& ctx, const Rearrange<T, typename B::Space>& a) {
  require_operands(a);
  B::rearrange(ctx, a);
}

/// Computes Add, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void add(Context<B>& ctx, const Add<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::add(ctx, a); })
    B::add(ctx, a);
  else
    detail::run_wide(ctx, a, [&](const auto& wide) { add(ctx, wide); });
}

/// Computes Fill, whose docstring says the rest.
template <class B, class T>
  requires HasRearrange<B, T>
void fill(Context<B>& ctx, const Fill<T, typename B::Space>& a) {
  require_operands(a);
  B::fill(ctx, a);
}

/// Computes Fill of each tensor, in one pass over all of them where the backend has it.
template <class B, class T>
  requires HasRearrange<B, T>
void fill(Context<B>& ctx, std::span<const Fill<T, typename B::Space>> tensors) {
  for (const auto& a : tensors) require_operands(a);
  if constexpr (requires { B::fill_each(ctx, tensors); })
    B::fill_each(ctx, tensors);
  else
    for (const auto& a : tensors) B::fill(ctx, a);
}

}  // namespace ssm
