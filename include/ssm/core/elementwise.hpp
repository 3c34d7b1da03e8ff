// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ssm/core/scalar.hpp"  // scalar_cast
#include "ssm/core/tensor.hpp"

namespace ssm {

/// Anything `view_of` understands: a view, a tensor, a std::span, an Eigen matrix.
template <class A>
concept TensorLike = requires(A& a) {
  view_of(a).extents();
};

template <TensorLike A>
using ViewTypeOf = decltype(view_of(std::declval<A&>()));
template <TensorLike A>
using ValueOf = typename ViewTypeOf<A>::Value;

/// The same in memory that the host can read.
template <class A>
concept HostTensor = TensorLike<A> && bool{ViewTypeOf<A>::Space::host_readable};

namespace detail {

template <class T>
struct StridedRow {
  T* data;
  Index step;
  constexpr T& operator[](Index i) const { return data[i * step]; }
};

template <Index... E, Index... F>
constexpr bool static_extents_agree(const Extents<E...>*, const Extents<F...>*) {
  if constexpr (sizeof...(E) == sizeof...(F))
    return ((E == F || E == dyn || F == dyn) && ...);
  else
    return false;
}

template <class First, class View>
void require_same_extents(const char* op, int operand, const First& first, const View& view) {
  static_assert(First::rank() == View::rank(), "the operands differ in rank");
  static_assert(First::rank() != View::rank() ||
                    static_extents_agree(static_cast<const typename First::Shape*>(nullptr),
                                         static_cast<const typename View::Shape*>(nullptr)),
                "the operands have static extents that differ");
  const std::string name = "operand " + std::to_string(operand);
  if (!view && view.size() != 0) throw ShapeError(op, name, "is missing");
  if (first.extents().to_array() != view.extents().to_array())
    throw ShapeError(op, name, first.extents().to_array(), view.extents().to_array());
}

/// The loops over several views of equal extents, in row-major order. Axes are joined where every
/// view allows it, so that contiguous operands are one row; calls row(count, a...) where
/// a[0…count−1] are the elements, by pointer if adjacent.
template <class Row, class... Views>
class RowWalk {
 public:
  static constexpr std::size_t count = sizeof...(Views);
  static constexpr int rank = std::tuple_element_t<0, std::tuple<Views...>>::rank();

  RowWalk(Row& row, const Views&... views) : row_(row), data_(views.data()...) {
    const auto& extents = std::get<0>(std::forward_as_tuple(views...)).extents();
    for (int axis = 0; axis < rank; ++axis) {
      if (extents[axis] == 1) continue;
      const Offsets steps{views.stride(axis)...};
      if (axes_ > 0 && joins(steps, extents[axis])) {
        axis_[axes_ - 1] = {axis_[axes_ - 1].extent * extents[axis], steps};
      } else {
        axis_[axes_++] = {extents[axis], steps};
      }
    }
  }

  void run() {
    for (std::size_t axis = 0; axis < axes_; ++axis)
      if (axis_[axis].extent == 0) return;
    visit(Offsets{});
  }

 private:
  using Offsets = std::array<Index, count>;
  struct Axis {
    Index extent;
    Offsets steps;
  };

  bool joins(const Offsets& inner, Index extent) const {
    bool all = true;
    for (std::size_t i = 0; i < count; ++i)
      all = all && axis_[axes_ - 1].steps[i] == inner[i] * extent;
    return all;
  }
  template <std::size_t axis = 0>
  void visit(Offsets at) {
    if constexpr (axis + 1 <
                  static_cast<std::size_t>(rank)) {  // g++ 12 must see that the recursion ends
      if (axis + 1 < axes_) {
        for (Index i = 0; i < axis_[axis].extent; ++i) {
          visit<axis + 1>(at);
          for (std::size_t v = 0; v < count; ++v) at[v] += axis_[axis].steps[v];
        }
        return;
      }
    }
    visit_row(at, std::make_index_sequence<count>());
  }
  template <std::size_t... V>
  void visit_row(const Offsets& at, std::index_sequence<V...>) {
    const Axis last = axes_ == 0 ? Axis{1, Offsets{}} : axis_[axes_ - 1];
    if (((last.steps[V] == 1) && ...))
      row_(last.extent, std::get<V>(data_) + at[V]...);
    else
      row_(last.extent,
           StridedRow<typename Views::Element>{std::get<V>(data_) + at[V], last.steps[V]}...);
  }

  Row& row_;
  std::tuple<typename Views::Element*...> data_;
  std::array<Axis, static_cast<std::size_t>(rank) + 1> axis_{};
  std::size_t axes_ = 0;
};

template <class Row, class First, class... More>
void for_each_row(const char* op, Row&& row, const First& first, const More&... more) {
  int operand = 0;
  require_same_extents(op, operand++, first, first);
  (require_same_extents(op, operand++, first, more), ...);
  RowWalk<std::remove_reference_t<Row>, First, More...>(row, first, more...).run();
}

/// Half-precision elements as float, others as they are: what arithmetic sees.
template <class T>
constexpr auto arithmetic(T value) {
  if constexpr (HalfStorage<T>)
    return static_cast<float>(value);
  else
    return value;
}

}  // namespace detail

/// Calls f(a[i], b[i], …) for every element, in row-major order, by reference.
///   for_each_element([](float& x) { x = std::abs(x); }, tensor);
/// views   equal extents, any strides
/// Throws  ShapeError  if extents differ
template <class F, HostTensor... Views>
  requires(sizeof...(Views) > 0)
void for_each_element(F&& f, Views&&... views) {
  detail::for_each_row(
      "for_each_element",
      [&f](Index count, auto... row) {
        for (Index i = 0; i < count; ++i) f(row[i]...);
      },
      view_of(views)...);
}

/// output[i] = f(inputs[i]…) for every element.
///   map([](float a, float b) { return a + b; }, y, y, x);                 // y += x
/// output  any strides, overwritten; may be one of the inputs, must not overlap them otherwise
/// inputs  equal extents, any strides; half-precision elements arrive as float
/// Throws  ShapeError  if extents differ
template <class F, HostTensor Output, HostTensor... Inputs>
void map(F&& f, Output&& output, const Inputs&... inputs) {
  using Value = ValueOf<Output>;
  detail::for_each_row(
      "map",
      [&f](Index count, auto out, auto... in) {
        for (Index i = 0; i < count; ++i)
          out[i] = scalar_cast<Value>(f(detail::arithmetic(in[i])...));
      },
      view_of(output), view_of(inputs)...);
}

/// Sets every element to `value`.
template <HostTensor Output, class U>
void fill(Output&& output, U value) {
  const auto element = scalar_cast<ValueOf<Output>>(value);
  detail::for_each_row(
      "fill",
      [element](Index count, auto out) {
        for (Index i = 0; i < count; ++i) out[i] = element;
      },
      view_of(output));
}

/// Copies between any two layouts and scalar types; halves round to nearest even, integers
/// truncate.
/// from    any strides
/// to      equal extents, any strides; must not overlap `from`
/// Throws  ShapeError  if extents differ
template <HostTensor From, HostTensor To>
void copy(const From& from, To&& to) {
  detail::for_each_row(
      "copy",
      [](Index count, auto target, auto source) {
        for (Index i = 0; i < count; ++i)
          target[i] = scalar_cast<ValueOf<To>>(ValueOf<From>(source[i]));
      },
      view_of(to), view_of(from));
}

/// A tensor of the same scalar, extents and space, all zero.
template <TensorLike A>
auto zeros_like(const A& like) {
  using ViewType = ViewTypeOf<const A>;
  return Tensor<typename ViewType::Value, typename ViewType::Shape, typename ViewType::Space>(
      view_of(like).extents());
}

/// A tensor of its own with the elements of any view, row-major.
template <HostTensor A>
auto clone(const A& from) {
  auto result = zeros_like(from);
  copy(from, result);
  return result;
}

}  // namespace ssm
