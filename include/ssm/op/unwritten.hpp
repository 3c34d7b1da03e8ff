// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "ssm/core/unwritten.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::detail {

/// What a view spans; strides are not negative.
template <class V>
UnwrittenTensors::Part memory_of(const V& view) {
  if (view.size() == 0) return {};
  Index last = 0;
  for (int axis = 0; axis < V::rank(); ++axis) last += (view.extent(axis) - 1) * view.stride(axis);
  return {view.data(), static_cast<std::size_t>(last + 1) * sizeof(typename V::Value)};
}
/// Sets a part of UnwrittenTensors to zero, numbers in T.
template <class T, class B>
auto zero_part(Context<B>& ctx) {
  return [&ctx](const UnwrittenTensors::Part& part) {
    const DynamicExtents<1> count(static_cast<Index>(part.bytes / sizeof(T)));
    fill(ctx, Fill<T, typename B::Space>{.y = {static_cast<T*>(part.data), count}});
  };
}
/// What a primitive asks that adds to a gradient: true where it may overwrite it, all of it. Else
/// the gradient has been written.
template <class B, class V>
bool overwrites(Context<B>& ctx, const V& gradient, bool can_overwrite = true) {
  using T = typename V::Value;
  if constexpr (HasRearrange<B, T>)
    if (UnwrittenTensors* const unwritten = ctx.unwritten(); unwritten != nullptr) {
      const auto memory = memory_of(gradient);
      if (can_overwrite && gradient.is_contiguous() && unwritten->take(memory)) return true;
      unwritten->settle(memory, zero_part<T>(ctx));
    }
  return false;
}

}  // namespace ssm::detail
