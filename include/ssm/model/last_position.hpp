// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/elementwise.hpp"  // TensorLike
#include "ssm/core/error.hpp"

namespace ssm {

/// What a classifier says of a whole sequence: the last position of each, with no copy. Of a
/// gradient it is what a loss fills.
///   cross_entropy(ctx, last_position(y), labels, last_position(dy));
/// y        [B, L, D]
/// result   [B, D]      a view of y
/// Throws  ShapeError  for sequences without positions
template <TensorLike Y>
auto last_position(Y&& y) {
  const auto view = view_of(y);
  static_assert(view.rank() == 3, "last_position: a sequence has three axes, [B, L, D]");
  if (view.extent(1) == 0) throw ShapeError("last_position", "y", "has no positions");
  return view.select(1, view.extent(1) - 1);
}

}  // namespace ssm
