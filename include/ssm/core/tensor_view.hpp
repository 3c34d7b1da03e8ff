// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ssm/core/extents.hpp"       // Extents
#include "ssm/core/memory_space.hpp"  // HostSpace

namespace ssm {

/// Borrows elements: pointer, extents, one stride per axis (in elements; 0 repeats an element).
///   TensorView<const float, Extents<dyn, dyn, 256>> x(pointer, {batch, length});   // row-major
/// A default-constructed view is null: an operand that was not given. Indexable where the space is
/// host-readable. A view converts to one of const elements and to any extents that agree; what the
/// compiler cannot check is checked at run time.
/// Throws  ShapeError  on conversion to static extents that differ, and from the methods that say
///                     so
template <class T, class ExtentsType, class SpaceType = HostSpace>
class TensorView {
 public:
  using Element = T;
  using Value = std::remove_const_t<T>;
  using Shape = ExtentsType;
  using Space = SpaceType;
  static constexpr int rank() { return Shape::rank(); }
  using Strides = std::array<Index, static_cast<std::size_t>(Shape::rank())>;

  constexpr TensorView() = default;
  constexpr TensorView(T* data, Shape extents)
      : data_(data), extents_(extents), strides_(row_major(extents)) {}
  constexpr TensorView(T* data, Shape extents, Strides strides)
      : data_(data), extents_(extents), strides_(strides) {}

  template <class U, class F>
    requires(std::is_convertible_v<U (*)[], T (*)[]>&& std::is_constructible_v<Shape, F>)
  constexpr TensorView(const TensorView<U, F, Space>& other) : strides_(other.strides()) {
    if (!other) return;  // null stays null, whatever the static extents
    data_ = other.data();
    extents_ = Shape(other.extents());
  }

  constexpr explicit operator bool() const { return data_ != nullptr; }
  constexpr T* data() const { return data_; }
  constexpr const Shape& extents() const { return extents_; }
  constexpr const Strides& strides() const { return strides_; }
  constexpr Index extent(int axis) const { return extents_[axis]; }
  constexpr Index stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }
  constexpr Index size() const { return extents_.size(); }

  template <class... I>
    requires(sizeof...(I) == static_cast<std::size_t>(Shape::rank()) && Space::host_readable)
  constexpr T& operator()(I... index) const { return data_[offset(index...)]; }

  /// True when the elements lie in row-major order without gaps.
  constexpr bool is_contiguous() const {
    if (size() == 0) return true;
    Index expected = 1;
    for (int axis = rank() - 1; axis >= 0; --axis) {
      if (extent(axis) != 1 && stride(axis) != expected) return false;
      expected *= extent(axis);
    }
    return true;
  }

  /// The part begin ≤ index < end of one axis. Throws ShapeError outside the axis.
  constexpr auto slice(int axis, Index begin, Index end) const {
    require_axis("slice", axis);
    if (begin < 0 || end < begin || end > extent(axis))
      detail::refuse_range(begin, end, axis, extents_.to_array());
    auto extents = extents_.to_array();
    extents[static_cast<std::size_t>(axis)] = end - begin;
    return dynamic_view<rank()>(data_ + begin * stride(axis), extents, strides_);
  }

  /// One index of one axis; the axis disappears. Throws ShapeError outside the axis.
  constexpr auto select(int axis, Index index) const requires(Shape::rank() > 0) {
    require_axis("select", axis);
    if (index < 0 || index >= extent(axis)) detail::refuse_index(index, axis, extents_.to_array());
    std::array<Index, static_cast<std::size_t>(rank() - 1)> extents{};
    std::array<Index, static_cast<std::size_t>(rank() - 1)> strides{};
    for (int from = 0, to = 0; from < rank(); ++from) {
      if (from == axis) continue;
      extents[static_cast<std::size_t>(to)] = extent(from);
      strides[static_cast<std::size_t>(to++)] = stride(from);
    }
    return dynamic_view<rank() - 1>(data_ + index * stride(axis), extents, strides);
  }

  /// Exchanges two axes; nothing moves in memory.
  constexpr auto transpose(int a, int b) const {
    require_axis("transpose", a);
    require_axis("transpose", b);
    auto extents = extents_.to_array();
    auto strides = strides_;
    std::swap(extents[static_cast<std::size_t>(a)], extents[static_cast<std::size_t>(b)]);
    std::swap(strides[static_cast<std::size_t>(a)], strides[static_cast<std::size_t>(b)]);
    return dynamic_view<rank()>(data_, extents, strides);
  }

  /// One more axis, of one element, before this one or behind the last; whatever the strides.
  /// Throws ShapeError outside.
  ///   view.unsqueeze(0)      // [L, D] as a batch of one, [1, L, D]
  constexpr auto unsqueeze(int axis) const {
    if (axis < 0 || axis > rank()) detail::refuse_axis("unsqueeze", axis, extents_.to_array());
    std::array<Index, static_cast<std::size_t>(rank() + 1)> extents{};
    std::array<Index, static_cast<std::size_t>(rank() + 1)> strides{};
    for (int to = 0, from = 0; to <= rank(); ++to) {
      const auto at = static_cast<std::size_t>(to);
      extents[at] = to == axis ? 1 : extent(from);
      strides[at] = to != axis ? stride(from) : from < rank() ? extent(from) * stride(from) : 1;
      if (to != axis) ++from;
    }
    return dynamic_view<rank() + 1>(data_, extents, strides);
  }

  /// One axis from its last element to its first: a stride changes its sign. Throws ShapeError
  /// outside.
  constexpr auto reverse(int axis) const requires(Shape::rank() > 0) {
    require_axis("reverse", axis);
    auto strides = strides_;
    strides[static_cast<std::size_t>(axis)] = -stride(axis);
    const bool is_empty = data_ == nullptr || extent(axis) == 0;
    return dynamic_view<rank()>(is_empty ? data_ : data_ + (extent(axis) - 1) * stride(axis),
                                extents_.to_array(), strides);
  }

  /// The same elements in row-major order under other extents. Throws ShapeError if the sizes
  /// differ or the view has gaps.
  template <Index... E>
  constexpr TensorView<T, Extents<E...>, Space> reshape(Extents<E...> extents) const {
    if (extents.size() != size() || !is_contiguous())
      detail::refuse_reshape(extents_.to_array(), strides_, is_contiguous(), extents.to_array());
    return {data_, extents};
  }
  template <std::convertible_to<Index>... N>
  constexpr auto reshape(N... extents) const {
    return reshape(DynamicExtents<int{sizeof...(N)}>(extents...));
  }

  /// All elements on one axis. Throws ShapeError if the view has gaps.
  constexpr auto flatten() const { return reshape(DynamicExtents<1>(size())); }

 private:
  template <class... I>
  constexpr Index offset(I... index) const {
    Index sum = 0;
    std::size_t axis = 0;
    ((sum += static_cast<Index>(index) * strides_[axis++]), ...);
    return sum;
  }
  static constexpr Strides row_major(const Shape& extents) {
    Strides strides{};
    Index step = 1;
    for (int axis = rank() - 1; axis >= 0; --axis) {
      strides[static_cast<std::size_t>(axis)] = step;
      step *= extents[axis];
    }
    return strides;
  }
  template <int Rank>
  static constexpr auto dynamic_view(T* data,
                                     std::array<Index, static_cast<std::size_t>(Rank)> extents,
                                     std::array<Index, static_cast<std::size_t>(Rank)> strides) {
    using Result = TensorView<T, DynamicExtents<Rank>, Space>;
    return std::apply(
        [&](auto... n) { return Result(data, typename Result::Shape(n...), strides); }, extents);
  }
  constexpr void require_axis(const char* op, int axis) const {
    if (axis < 0 || axis >= rank()) detail::refuse_axis(op, axis, extents_.to_array());
  }

  T* data_ = nullptr;
  [[no_unique_address]] Shape extents_{};
  Strides strides_{};
};

namespace detail {
/// The number of elements to allocate. Throws OutOfMemory where their number of bytes is no number.
template <class T, class Shape>
Index element_count(const Shape& extents, std::string_view space) {
  constexpr Index limit = std::numeric_limits<Index>::max() / Index{sizeof(T)};
  Index count = 1;
  bool fits = true;
  for (const Index extent : extents.to_array()) {
    if (extent == 0) return 0;
    fits = fits && count <= limit / extent;
    if (fits) count *= extent;
  }
  if (!fits) throw OutOfMemory(std::numeric_limits<std::size_t>::max(), space);
  return count;
}
}  // namespace detail

/// A view whose extents are all known at run time: what backends see.
template <class T, int Rank, class Space = HostSpace>
using View = TensorView<T, DynamicExtents<Rank>, Space>;

/// Throws ShapeError unless every axis of `actual` equals `expected`, where `dyn` accepts any size.
template <class T, class E, class S>
void require_extents(std::string_view op, std::string_view operand,
                     const TensorView<T, E, S>& actual,
                     std::array<Index, static_cast<std::size_t>(E::rank())> expected) {
  const auto extents = actual.extents().to_array();
  bool agree = static_cast<bool>(actual);
  for (std::size_t axis = 0; axis < expected.size(); ++axis)
    agree = agree && (expected[axis] == dyn || expected[axis] == extents[axis]);
  if (!agree) detail::refuse_extents(op, operand, static_cast<bool>(actual), expected, extents);
}

/// The same for an operand that may be left out.
template <class T, class E, class S>
void require_extents_if_given(std::string_view op, std::string_view operand,
                              const TensorView<T, E, S>& actual,
                              std::array<Index, static_cast<std::size_t>(E::rank())> expected) {
  if (actual) require_extents(op, operand, actual, expected);
}

}  // namespace ssm
