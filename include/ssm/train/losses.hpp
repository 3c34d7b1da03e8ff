// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>

#include "ssm/core/elementwise.hpp"  // TensorLike
#include "ssm/layer/layer.hpp"       // as_rows
#include "ssm/op/cross_entropy.hpp"
#include "ssm/op/optimizer_update.hpp"  // sum_of_squares
#include "ssm/op/rearrange.hpp"

namespace ssm {

namespace detail {

/// A view of at most three axes as [I, J, K].
template <class T, class E, class Space>
View<T, 3, Space> with_three_axes(const TensorView<T, E, Space>& x) {
  static_assert(E::rank() <= 3, "a loss takes operands of at most three axes");
  std::array<Index, 3> extents{1, 1, 1};
  std::array<Index, 3> strides{};
  for (int axis = 0; axis < E::rank(); ++axis) {
    const auto at = static_cast<std::size_t>(3 - E::rank() + axis);
    extents[at] = x.extent(axis);
    strides[at] = x.stride(axis);
  }
  return {x.data(), {extents[0], extents[1], extents[2]}, strides};
}

/// Logits of two or three axes as the matrix [M, V].
template <class T, class E, class Space>
View<T, 2, Space> rows_of_logits(const TensorView<T, E, Space>& x) {
  static_assert(E::rank() == 2 || E::rank() == 3, "logits have two or three axes, [B, L, V]");
  if constexpr (E::rank() == 2)
    return x;
  else
    return as_rows(View<T, 3, Space>(x));
}

/// One number of a backend's memory, when all that was asked for before is done.
template <class B, class T>
double read_number(const View<T, 1, typename B::Space>& from) {
  T value{};
  B::Space::copy(&value, from.data(), sizeof(value));
  return static_cast<double>(value);
}

template <class B, class T>
double mean_squared_error(Context<B>& ctx, View<const T, 3, typename B::Space> y,
                          View<const T, 3, typename B::Space> target,
                          View<T, 3, typename B::Space> dy) {
  using Space = typename B::Space;
  const char* op = "mean_squared_error";
  require_extents(op, "target", target, y.extents().to_array());
  require_extents_if_given(op, "dy", dy, y.extents().to_array());
  if (y.size() == 0) return 0;
  auto frame = ctx.workspace().frame();
  View<const T, 3, Space> output = y;
  if (!y.is_contiguous()) {
    const auto copy = frame.template tensor<T>(y.extents());
    rearrange(ctx, Rearrange<T, Space>{.x = y, .y = copy});
    output = copy;
  }
  View<T, 3, Space> gradient = dy;
  if (!dy || !dy.is_contiguous()) gradient = frame.template tensor<T>(y.extents());
  rearrange(ctx, Rearrange<T, Space>{.x = target, .y = gradient});
  const double slope = 2 / static_cast<double>(y.size());
  add(ctx, Add<T, Space>{.a = output.flatten(),
                         .b = gradient.flatten(),
                         .a_scale = slope,
                         .b_scale = -slope,
                         .y = gradient.flatten()});
  const auto sum = frame.template tensor<double>(1);
  fill(ctx, Fill<double, Space>{.y = sum});
  sum_of_squares(ctx, SumOfSquares<T, Space>{.x = gradient.flatten(), .sum = sum});
  if (dy && gradient.data() != dy.data())
    rearrange(ctx, Rearrange<T, Space>{.x = gradient, .y = dy});
  return read_number<B, double>(sum) / (2 * slope);
}

}  // namespace detail

/// The mean of (y − target)² over all elements, with its gradient.
///   dy = 2·(y − target) / number of elements
/// y, target, dy   at most three axes, equal extents, any strides; dy overwritten, may be left out
/// Cost    a few passes over y; waits for the result
/// Throws  ShapeError  if extents differ
template <class B, TensorLike Y, TensorLike Target, TensorLike DY>
  requires HasRearrange<B> && HasOptimizerUpdate<B>
double mean_squared_error(Context<B>& ctx, const Y& y, const Target& target, DY&& dy) {
  static_assert(ViewTypeOf<const Y>::rank() == ViewTypeOf<const Target>::rank() &&
                    ViewTypeOf<const Y>::rank() == ViewTypeOf<DY>::rank(),
                "mean_squared_error: y, target and dy differ in rank");
  return detail::mean_squared_error<B, ValueOf<const Y>>(ctx, detail::with_three_axes(view_of(y)),
                                                         detail::with_three_axes(view_of(target)),
                                                         detail::with_three_axes(view_of(dy)));
}
template <class B, TensorLike Y, TensorLike Target>
  requires HasRearrange<B> && HasOptimizerUpdate<B>
double mean_squared_error(Context<B>& ctx, const Y& y, const Target& target) {
  static_assert(ViewTypeOf<const Y>::rank() == ViewTypeOf<const Target>::rank(),
                "mean_squared_error: y and target differ in rank");
  return detail::mean_squared_error<B, ValueOf<const Y>>(
      ctx, detail::with_three_axes(view_of(y)), detail::with_three_axes(view_of(target)), {});
}

/// The mean of −ln softmax(logits)[target] over all rows whose target is not `ignored`, with its
/// gradient: classification.
/// logits, dlogits   [M, V] or [B, L, V]   dlogits overwritten, zero in ignored rows; may be left
///                                         out
/// targets           [M] or [B, L], tokens
/// Cost    O(M·V); waits for the result
/// Throws  ShapeError; ArgumentError  for a target that is neither a class nor ignored
/// Source  the formula and its sums are those of CrossEntropy
template <class B, TensorLike Logits, TensorLike Targets, TensorLike DLogits>
  requires HasCrossEntropy<B>
double cross_entropy(Context<B>& ctx, const Logits& logits, const Targets& targets,
                     DLogits&& dlogits, Token ignored = -100) {
  using T = ValueOf<const Logits>;
  auto frame = ctx.workspace().frame();
  const auto loss = frame.template tensor<T>(1);
  cross_entropy(
      ctx, CrossEntropy<T, typename B::Space>{.logits = detail::rows_of_logits(view_of(logits)),
                                              .targets = view_of(targets).flatten(),
                                              .ignore_index = ignored,
                                              .loss = loss,
                                              .dlogits = detail::rows_of_logits(view_of(dlogits))});
  return detail::read_number<B, T>(loss);
}
template <class B, TensorLike Logits, TensorLike Targets>
  requires HasCrossEntropy<B>
double cross_entropy(Context<B>& ctx, const Logits& logits, const Targets& targets) {
  return cross_entropy(ctx, logits, targets, View<ValueOf<const Logits>, 2, typename B::Space>{});
}

}  // namespace ssm
