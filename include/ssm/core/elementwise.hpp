// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
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

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_view(const char* op, int operand,
                                                               std::span<const Index> expected,
                                                               std::span<const Index> extents,
                                                               bool missing) {
  const std::string name = "operand " + std::to_string(operand);
  if (missing) throw ShapeError(op, name, "is missing");
  throw ShapeError(op, name, expected, extents);
}

template <class First, class View>
void require_same_extents(const char* op, int operand, const First& first, const View& view) {
  static_assert(First::rank() == View::rank(), "the operands differ in rank");
  static_assert(First::rank() != View::rank() ||
                    static_extents_agree(static_cast<const typename First::Shape*>(nullptr),
                                         static_cast<const typename View::Shape*>(nullptr)),
                "the operands have static extents that differ");
  const bool missing = !view && view.size() != 0;
  if (!missing && first.extents() == view.extents()) return;
  refuse_view(op, operand, first.extents().to_array(), view.extents().to_array(), missing);
}

/// The loops over several views of equal extents, in row-major order. Axes are joined where every
/// view allows it, so that contiguous operands are one row; calls row(count, a...) where
/// a[0…count−1] are the elements, by pointer if adjacent. Rank and extents are run-time values: the
/// compiler sees one walk for each kind of row and element, with room for so many axes.
template <std::size_t room, class Row, class... Elements>
class RowWalk {
 public:
  static constexpr std::size_t count = sizeof...(Elements);
  using Offsets = std::array<Index, count>;

  RowWalk(Row& row, Elements*... data) : row_(row), data_(data...) {}

  /// The next axis inwards; its extent and the steps of each view.
  void add_axis(Index extent, const Offsets& steps) {
    if (extent == 1) return;
    if (axes_ > 0 && joins(steps, extent))
      axis_[axes_ - 1] = {axis_[axes_ - 1].extent * extent, steps};
    else
      axis_[axes_++] = {extent, steps};
  }

  void run() {
    for (std::size_t axis = 0; axis < axes_; ++axis)
      if (axis_[axis].extent == 0) return;
    const Axis last = axes_ == 0 ? Axis{1, Offsets{}} : axis_[axes_ - 1];
    const std::size_t outer = axes_ == 0 ? 0 : axes_ - 1;
    std::array<Index, room> index{};
    Offsets at{};
    for (;;) {
      visit_row(last, at, std::make_index_sequence<count>());
      std::size_t axis = outer;
      for (; axis > 0; --axis) {
        const Axis& next = axis_[axis - 1];
        for (std::size_t v = 0; v < count; ++v) at[v] += next.steps[v];
        if (++index[axis - 1] < next.extent) break;
        for (std::size_t v = 0; v < count; ++v) at[v] -= next.extent * next.steps[v];
        index[axis - 1] = 0;
      }
      if (axis == 0) return;
    }
  }

 private:
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
  template <std::size_t... V>
  void visit_row(const Axis& last, const Offsets& at, std::index_sequence<V...>) {
    if (((last.steps[V] == 1) && ...))
      row_(last.extent, std::get<V>(data_) + at[V]...);
    else
      row_(last.extent, StridedRow<Elements>{std::get<V>(data_) + at[V], last.steps[V]}...);
  }

  Row& row_;
  std::tuple<Elements*...> data_;
  std::array<Axis, room> axis_{};
  std::size_t axes_ = 0;
};

template <class Row, class First, class... More>
void for_each_row(const char* op, Row&& row, const First& first, const More&... more) {
  int operand = 0;
  require_same_extents(op, operand++, first, first);
  (require_same_extents(op, operand++, first, more), ...);
  constexpr std::size_t room = First::rank() > 8 ? static_cast<std::size_t>(First::rank()) : 8;
  RowWalk<room, std::remove_reference_t<Row>, typename First::Element, typename More::Element...>
  walk(row, first.data(), more.data()...);
  for (int axis = 0; axis < First::rank(); ++axis)
    walk.add_axis(first.extent(axis), {first.stride(axis), more.stride(axis)...});
  walk.run();
}

/// Half-precision elements as float, others as they are: what arithmetic sees.
template <class T>
constexpr auto arithmetic(T value) {
  if constexpr (HalfStorage<T>)
    return static_cast<float>(value);
  else
    return value;
}

/// What the functions below do to a row: named, so that their code does not depend on extents.
template <class F>
struct RowOf {
  F& f;
  void operator()(Index count, auto... row) const {
    for (Index i = 0; i < count; ++i) f(row[i]...);
  }
};
template <class T>
struct FillRow {
  T element;
  void operator()(Index count, auto out) const {
    for (Index i = 0; i < count; ++i) out[i] = element;
  }
};
template <class Value, class F>
struct MapRow {
  F& f;
  void operator()(Index count, auto out, auto... in) const {
    for (Index i = 0; i < count; ++i) out[i] = scalar_cast<Value>(f(arithmetic(in[i])...));
  }
};
template <class To, class From>
struct CopyRow {
  void operator()(Index count, auto target, auto source) const {
    for (Index i = 0; i < count; ++i) target[i] = scalar_cast<To>(From(source[i]));
  }
};

}  // namespace detail

/// Calls f(a[i], b[i], …) for every element, in row-major order, by reference.
///   for_each_element([](float& x) { x = std::abs(x); }, tensor);
/// views   equal extents, any strides
/// Throws  ShapeError  if extents differ
template <class F, HostTensor... Views>
  requires(sizeof...(Views) > 0)
void for_each_element(F&& f, Views&&... views) {
  detail::for_each_row("for_each_element", detail::RowOf<std::remove_reference_t<F>>{f},
                       view_of(views)...);
}

/// output[i] = f(inputs[i]…) for every element.
///   map([](float a, float b) { return a + b; }, y, y, x);                 // y += x
/// output  any strides, overwritten; may be one of the inputs, must not overlap them otherwise
/// inputs  equal extents, any strides; half-precision elements arrive as float
/// Throws  ShapeError  if extents differ
template <class F, HostTensor Output, HostTensor... Inputs>
void map(F&& f, Output&& output, const Inputs&... inputs) {
  using Row = detail::MapRow<ValueOf<Output>, std::remove_reference_t<F>>;
  detail::for_each_row("map", Row{f}, view_of(output), view_of(inputs)...);
}

/// Sets every element to `value`.
template <HostTensor Output, class U>
void fill(Output&& output, U value) {
  using Value = ValueOf<Output>;
  detail::for_each_row("fill", detail::FillRow<Value>{scalar_cast<Value>(value)}, view_of(output));
}

/// Copies between any two layouts and scalar types; halves round to nearest even, integers
/// truncate.
/// from    any strides
/// to      equal extents, any strides; must not overlap `from`
/// Throws  ShapeError  if extents differ
template <HostTensor From, HostTensor To>
void copy(const From& from, To&& to) {
  detail::for_each_row("copy", detail::CopyRow<ValueOf<To>, ValueOf<From>>(), view_of(to),
                       view_of(from));
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
