// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"

namespace ssm {

/// Copies into another scalar: y[i,j,k] = x[i,j,k], whatever the strides of either. What half types
/// cannot hold is rounded to nearest, ties to even.
/// x, y   [I, J, K]   y overwritten; must not overlap x
/// Throws  ShapeError  if extents differ
template <class From, class To, class Space>
struct Convert {
  View<const From, 3, Space> x{};
  View<To, 3, Space> y{};

  static constexpr const char* name = "convert";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "IJK"), &Convert::x, nullptr);
    visit(output("y", "IJK"), &Convert::y, nullptr);
  }
};

/// Backends that have the primitive Convert, between T and Wide<T>.
template <class B, class T>
concept HasConvert = requires(Context<B>& ctx, const Convert<T, Wide<T>, typename B::Space>& widen,
                              const Convert<Wide<T>, T, typename B::Space>& narrow) {
  B::convert(ctx, widen);
  B::convert(ctx, narrow);
};

/// Computes Convert, whose docstring says the rest.
template <class B, class From, class To>
void convert(Context<B>& ctx, const Convert<From, To, typename B::Space>& a) {
  require_operands(a);
  B::convert(ctx, a);
}

/// The same numbers as To: `x` itself where it is of To, else a copy in the frame.
template <class To, class B, class Frame, class E>
View<const To, 1, typename B::Space> converted(Context<B>& ctx, Frame& frame, const E& x) {
  using From = typename E::Value;
  if constexpr (std::is_same_v<From, To>) {
    return x;
  } else {
    const View<To, 3, typename B::Space> y =
        frame.template tensor<To>(Index{1}, Index{1}, x.extent(0));
    convert(ctx, Convert<From, To, typename B::Space>{.x = x.reshape(1, 1, x.extent(0)), .y = y});
    return y.flatten();
  }
}
/// Contiguous rows likewise.
template <class To, class B, class Frame, class E>
View<const To, 2, typename B::Space> converted_rows(Context<B>& ctx, Frame& frame, const E& x) {
  return View<const To, 2, typename B::Space>(converted<To>(ctx, frame, x.flatten()).data(),
                                              x.extents());
}

}  // namespace ssm
