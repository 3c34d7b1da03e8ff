// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensors that lie one behind the other: what reads or writes several of them may take them as one.

#include <array>
#include <cstddef>
#include <span>
#include <tuple>

#include "ssm/core/tensor.hpp"

namespace ssm {

/// Spaces that allocate blocks one behind the other, each of which is given back by itself.
template <class Space>
concept HasAdjacentBlocks = requires(std::span<const std::size_t> bytes, std::span<void*> blocks) {
  Space::allocate_adjacent(bytes, blocks);
};

/// Where the space can, gives tensors of zeros memory one behind the other; their order stays.
template <class First, class... More>
void make_adjacent(First& first, More&... more) {
  using Space = typename First::Space;
  if constexpr (HasAdjacentBlocks<Space>) {
    constexpr std::size_t count = 1 + sizeof...(More);
    const auto bytes_of = [](const auto& tensor) {
      return static_cast<std::size_t>(tensor.size()) * sizeof(*tensor.data());
    };
    const std::array<std::size_t, count> bytes{bytes_of(first), bytes_of(more)...};
    std::array<void*, count> blocks{};
    Space::allocate_adjacent(bytes, blocks);
    std::size_t number = 0;
    const auto move = [&]<class T, class E>(Tensor<T, E, Space>& tensor) {
      const E extents = tensor.extents();
      tensor = Tensor<T, E, Space>::adopt(static_cast<T*>(blocks[number++]), extents);
      tensor.reset(extents);
    };
    move(first);
    (move(more), ...);
  }
}

/// The views of some things as one, where each lies behind the one before along an axis; else null.
///   joined(0, layers, [](const auto& layer) { return layer.weight.view(); })
template <class Things, class ViewOf>
auto joined(int axis, const Things& things, ViewOf view_of) {
  using V = decltype(view_of(*things.begin()));
  V whole;
  for (const auto& thing : things) {
    const V next = view_of(thing);
    if (!next) return V();
    auto extents = next.extents().to_array();
    if (whole) {
      auto others = whole.extents().to_array();
      const auto at = static_cast<std::size_t>(axis);
      const Index length = others[at];
      extents[at] += length;
      others[at] = extents[at];
      if (others != extents || next.strides() != whole.strides() ||
          next.data() != whole.data() + length * whole.stride(axis))
        return V();
    }
    auto* const begin = whole ? whole.data() : next.data();
    whole = std::apply([&](auto... n) { return V(begin, typename V::Shape(n...), next.strides()); },
                       extents);
  }
  return whole;
}

}  // namespace ssm
