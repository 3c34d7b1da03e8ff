// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// A view of anything tensor-like, and of memory that belongs to somebody else; elements are const
/// where the owner is.
///   view_of(tensor)   view_of(view)   view_of(std::span)   view_of(std::vector)
///   view_of(Eigen matrix or map)
///   // row-major
///   view_of(pointer, {batch, length, channels})
///   // each sequence column-major
///   view_of(pointer, {batch, length, channels}, {length * channels, 1, length})
template <class T, class E, class S>
TensorView<T, E, S> view_of(const TensorView<T, E, S>& view) {
  return view;
}

/// A vector.
template <class T>
View<T, 1> view_of(std::span<T> elements) {
  return {elements.data(), {static_cast<Index>(elements.size())}};
}
template <class T, class A>
  requires(!std::is_same_v<T, bool>)
View<T, 1> view_of(std::vector<T, A>& elements) { return view_of(std::span<T>(elements)); }
template <class T, class A>
  requires(!std::is_same_v<T, bool>)
View<const T, 1> view_of(const std::vector<T, A>& elements) {
  return view_of(std::span<const T>(elements));
}
template <class T, class A>
void view_of(const std::vector<T, A>&& gone_before_the_view) = delete;

/// Any shape. Throws ShapeError for negative extents.
template <class T, std::size_t Rank>
View<T, int{Rank}> view_of(T* data, const Index (&extents)[Rank]) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return View<T, int{Rank}>(data, DynamicExtents<int{Rank}>(extents[I]...));
  }
  (std::make_index_sequence<Rank>());
}
template <class T, std::size_t Rank>
View<T, int{Rank}> view_of(T* data, const Index (&extents)[Rank], const Index (&strides)[Rank]) {
  return {data, view_of(data, extents).extents(), std::to_array(strides)};
}

/// Any shape, from sizes and strides (in elements) that another library keeps: view_of<3>(pointer,
/// sizes, strides). Without strides row-major.
/// Throws  ShapeError  unless there are as many as axes, and for negative extents
template <int Rank, class T>
View<T, Rank> view_of(T* data, std::span<const Index> extents,
                      std::span<const Index> strides = {}) {
  const auto axes = static_cast<std::size_t>(Rank);
  if (extents.size() != axes || (!strides.empty() && strides.size() != axes))
    throw ShapeError("view_of", "memory",
                     message({"must have ", Rank, " extents and as many strides, got ",
                              shape_text(extents), " and ", shape_text(strides)}));
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    const DynamicExtents<Rank> shape(extents[I]...);
    return strides.empty() ? View<T, Rank>(data, shape)
                           : View<T, Rank>(data, shape, {strides[I]...});
  }
  (std::make_index_sequence<axes>());
}

/// What Eigen::Matrix, Map, Ref and blocks have.
template <class M>
concept MatrixLike = requires(M& m) {
  m.data();
  m.rows();
  m.cols();
  m.rowStride();
  m.colStride();
};

namespace detail {
/// A matrix that has memory of its own; a map has somebody else's.
template <class M>
concept OwningMatrix = std::is_same_v < std::remove_cv_t<M>,
typename M::PlainObject > ;
}  // namespace detail

/// A matrix [rows, cols], row-major or column-major.
template <MatrixLike M>
auto view_of(M& matrix) {
  using T = std::remove_reference_t<decltype(*matrix.data())>;
  return View<T, 2>(
      matrix.data(), {static_cast<Index>(matrix.rows()), static_cast<Index>(matrix.cols())},
      {static_cast<Index>(matrix.rowStride()), static_cast<Index>(matrix.colStride())});
}
/// Maps and blocks may be temporary: view_of(x.middleRows(0, 60)). The memory is not theirs.
template <class M>
  requires(!std::is_lvalue_reference_v<M> && MatrixLike<M> && !detail::OwningMatrix<M>)
auto view_of(M&& map) {
  M& named = map;
  return view_of(named);
}

}  // namespace ssm
