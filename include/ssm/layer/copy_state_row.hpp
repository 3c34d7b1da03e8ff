// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/tensor.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {
namespace detail {

/// A tensor of a state: [S, …], or [T, S, …] for a cache that grows with the positions.
struct StateRows {
  bool is_cache = false;
  Index from_length = 1;  // T
  Index to_length = 1;
};

/// Throws  ShapeError  unless both tensors have the axes of `fresh`, that of a state of one
///                     sequence without positions, and the rows are there
template <class Fresh, class Tensor>
StateRows state_rows(const std::string& name, const Fresh& fresh, const Tensor& from, Index row,
                     const Tensor& to, Index to_row) {
  constexpr int rank = Tensor::Shape::rank();
  StateRows result{.is_cache = rank > 1 && fresh.extents()[0] == 0};
  const int axis = result.is_cache ? 1 : 0;
  const auto require = [&](const Tensor& tensor, Index wanted) {
    auto expected = fresh.extents().to_array();
    for (int i = 0; i <= axis; ++i) expected[static_cast<std::size_t>(i)] = dyn;
    require_extents("copy_state_row", name, tensor.view(), expected);
    if (wanted < 0 || wanted >= tensor.extent(axis))
      throw ShapeError("copy_state_row", message({"sequence ", wanted}),
                       message({"is not one of the ", tensor.extent(axis), " of ", name}));
  };
  require(from, row);
  require(to, to_row);
  if (result.is_cache) {
    result.from_length = from.extent(0);
    result.to_length = to.extent(0);
  }
  return result;
}

template <class B, class T, class Space>
void zero_row(Context<B>& ctx, T* data, Index count) {
  if constexpr (Space::host_readable)
    std::fill_n(data, count, T{});
  else
    fill(ctx, Fill<T, Space>{.y = View<T, 1, Space>(data, {count})});
}
template <class B, class T, class Space>
void copy_row(Context<B>& ctx, const T* from, T* to, Index count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  if constexpr (Space::host_readable)
    Space::copy(to, from, bytes);
  else
    ctx.copy(to, from, bytes);
}

/// Where a cache grows, the new rows of other sequences are zero; where the sequence is shorter
/// than the cache, so is the rest of its column.
template <class B, class T, class E, class Space>
void copy_state_tensor(Context<B>& ctx, const StateRows& rows, const Tensor<T, E, Space>& from,
                       Index row, Tensor<T, E, Space>& to, Index to_row) {
  const int axis = rows.is_cache ? 1 : 0;
  Index width = 1;
  for (int i = axis + 1; i < E::rank(); ++i) width *= from.extent(i);
  const Index from_step = rows.is_cache ? from.extent(1) * width : 0;
  const Index to_step = rows.is_cache ? to.extent(1) * width : 0;
  if (rows.from_length > rows.to_length) {
    auto extents = to.extents().to_array();
    extents[0] = rows.from_length;
    to.extend(std::apply([](auto... n) { return E(n...); }, extents));
    if constexpr (!std::is_integral_v<T>)
      zero_row<B, T, Space>(ctx, to.data() + rows.to_length * to_step,
                            (rows.from_length - rows.to_length) * to_step);
  }
  for (Index t = 0; t < rows.from_length; ++t)
    copy_row<B, T, Space>(ctx, from.data() + t * from_step + row * width,
                          to.data() + t * to_step + to_row * width, width);
  if constexpr (!std::is_integral_v<T>)
    for (Index t = rows.from_length; t < rows.to_length; ++t)
      zero_row<B, T, Space>(ctx, to.data() + t * to_step + to_row * width, width);
}

}  // namespace detail

/// Copies what a state remembers of one sequence over that of one sequence of another state of the
/// same layer, so that sequences join and leave a batch. They may have read differently much.
///   auto batch = model.layer.initial_state(ctx, 8);
///   // sequence 0 of a session becomes sequence 3, and back
///   copy_state_row(ctx, model.layer, session, 0, batch, 3);
///   copy_state_row(ctx, model.layer, batch, 3, session, 0);
/// Cost    the memory of one sequence twice; one copy for each tensor, in caches for each position
/// Throws  ShapeError  if a row is not there, the states are not of this layer, or caches without
///                     positions of their sequences differ in length; nothing has changed then
template <class B, class L, class State>
void copy_state_row(Context<B>& ctx, const L& layer, const State& from, Index row, State& to,
                    Index to_row) {
  const auto fresh = layer.template initial_state<float>(ctx, 1);  // says which axis is which
  std::vector<detail::StateRows> all;
  bool has_positions = false, is_uneven = false;
  L::for_each_state(
      [&](const std::string& name, const auto& one, const auto& source, const auto& target) {
        using Element = std::remove_cvref_t<decltype(*source.data())>;
        all.push_back(detail::state_rows(name, one, source, row, target, to_row));
        has_positions = has_positions || std::is_integral_v<Element>;
        const bool grown = all.back().to_length != 0;
        is_uneven = is_uneven || (grown && all.back().from_length != all.back().to_length);
      },
      fresh, from, std::as_const(to));
  if (is_uneven && !has_positions)
    throw ShapeError("copy_state_row", "the caches", "of both states must have as many positions");
  if (&from == &to && row == to_row) return;
  auto next = all.begin();
  L::for_each_state(
      [&](const std::string&, const auto& source, auto& target) {
        detail::copy_state_tensor(ctx, *next++, source, row, target, to_row);
      },
      from, to);
}

}  // namespace ssm
