// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "support/test_tensor.hpp"

namespace ssm::test {

/// How the elements of an operand lie in memory.
enum class Layout { rows, columns, gaps };
inline constexpr std::array all_layouts{Layout::rows, Layout::columns, Layout::gaps};

/// Memory of some layout and the view of it. Starts as NaN; so do the gaps, which must neither be
/// read nor written.
template <class T, int Rank>
struct Placed {
  DynamicTensor<T, 1> memory;
  View<T, Rank> view;
  operator View<const T, Rank>() const { return view; }
  operator View<T, Rank>() const { return view; }
};

/// `rows`: last axis contiguous. `columns`: the last two axes exchanged. `gaps`: every second
/// element unused.
template <class T, class... N>
auto place(Layout layout, N... extents) {
  constexpr int rank = int{sizeof...(N)};
  const std::array<Index, sizeof...(N)> shape{static_cast<Index>(extents)...};
  std::array<std::size_t, sizeof...(N)> order{};  // from the fastest axis
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = order.size() - 1 - i;
  if constexpr (rank > 1)
    if (layout == Layout::columns) std::swap(order[0], order[1]);
  std::array<Index, sizeof...(N)> strides{};
  Index step = layout == Layout::gaps ? 2 : 1;
  for (const std::size_t axis : order) {
    strides[axis] = step;
    step *= shape[axis];
  }
  auto memory = nan_tensor<T>(step + 1);
  const View<T, rank> view(memory.data(), DynamicExtents<rank>(static_cast<Index>(extents)...),
                           strides);
  return Placed<T, rank>{std::move(memory), view};
}

template <class T, class F, class E>
void copy_into(const TensorView<T, F>& to, const Tensor<T, E>& from) {
  for_each_index(from, [&](auto... i) { to(i...) = from(i...); });
}

/// A copy in another layout.
template <class T, class E>
auto place_copy(Layout layout, const Tensor<T, E>& from) {
  auto placed =
      std::apply([&](auto... n) { return place<T>(layout, n...); }, from.extents().to_array());
  copy_into(placed.view, from);
  return placed;
}

}  // namespace ssm::test
