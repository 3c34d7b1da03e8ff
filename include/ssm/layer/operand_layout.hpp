// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/tensor.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// How x, y and their gradients must lie in memory for a layer's `evaluate` and `differentiate`. A
/// layer says so by
///   static constexpr OperandLayout operand_layout = OperandLayout::even_rows;
/// and is `contiguous` if it says nothing. The verbs copy what lies otherwise, and copy nothing
/// else.
enum class OperandLayout {
  contiguous,  // row-major without gaps
  even_rows,   // channels contiguous, positions evenly spaced over the batch: columns of a matrix
  any          // whatever the strides
};

/// Whether channels are contiguous and positions evenly spaced over the whole batch.
template <class T, class Space>
bool has_even_rows(const View<T, 3, Space>& x) {
  const bool even =
      x.extent(0) <= 1 || x.extent(1) <= 1 || x.stride(0) == x.extent(1) * x.stride(1);
  return even && (x.extent(2) <= 1 || x.stride(2) == 1);
}

/// A [B, L, D] operand with contiguous rows as the matrix [B·L, D]; null stays null.
/// Throws  ShapeError  unless it has even rows
template <class T, class Space>
View<T, 2, Space> as_rows(const View<T, 3, Space>& x) {
  if (!x) return {};
  const Index rows = x.extent(0) * x.extent(1);
  if (!has_even_rows(x))
    throw ShapeError(
        "layer", "operand",
        "must have its channels contiguous and positions evenly spaced; the verbs of a "
        "layer copy one that has not, and so does ssm::clone");
  const Index stride = x.extent(1) == 1 ? x.stride(0) : x.stride(1);
  return {x.data(), {rows, x.extent(2)}, {stride, 1}};
}
/// The same where some extents are in the type, and of tensors.
template <class T, class E, class Space>
View<T, 2, Space> as_rows(const TensorView<T, E, Space>& x) {
  return as_rows(View<T, 3, Space>(x));
}
template <class T, class E, class Space>
View<T, 2, Space> as_rows(Tensor<T, E, Space>& x) {
  return as_rows(View<T, 3, Space>(x));
}
template <class T, class E, class Space>
View<const T, 2, Space> as_rows(const Tensor<T, E, Space>& x) {
  return as_rows(View<const T, 3, Space>(x));
}

namespace detail {
/// The layout that a layer asks for.
template <class L>
constexpr OperandLayout operand_layout_of() {
  if constexpr (requires { L::operand_layout; })
    return L::operand_layout;
  else
    return OperandLayout::contiguous;
}

/// Whether x lies so. Rows of a matrix do not overlap and go forwards.
template <OperandLayout layout, class T, class Space>
bool lies_as(const View<T, 3, Space>& x) {
  if (layout == OperandLayout::any || x.is_contiguous()) return true;
  if (layout == OperandLayout::contiguous || !has_even_rows(x)) return false;
  return (x.extent(1) == 1 ? x.stride(0) : x.stride(1)) >= x.extent(2);
}
}  // namespace detail

}  // namespace ssm
