// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include "ssm/core/elementwise.hpp"

namespace ssm {

/// Where two tensors differ most.
template <int Rank>
struct Difference {
  double value = 0;  // |x − y|; infinite where one is NaN or only one is infinite
  double scale = 0;  // the largest finite |y|
  std::array<Index, static_cast<std::size_t>(Rank)> index{};

  /// value ≤ tolerance · max(1, scale)
  bool within(double tolerance) const { return value <= tolerance * std::max(1.0, scale); }
};

namespace detail {

inline double distance(double x, double y) {
  if (x == y) return 0;  // equal infinities too
  const double difference = std::abs(x - y);
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

/// The multi-index of element number `position` in row-major order.
template <std::size_t Rank>
std::array<Index, Rank> multi_index(Index position, const std::array<Index, Rank>& extents) {
  std::array<Index, Rank> index{};
  for (std::size_t axis = Rank; axis-- > 0;) {
    index[axis] = position % extents[axis];
    position /= extents[axis];
  }
  return index;
}

}  // namespace detail

/// The largest |x[i] − y[i]|, computed in double, and where it is (the first of equals, in
/// row-major order). A NaN differs infinitely from everything, itself included.
/// Throws  ShapeError  if extents differ
template <HostTensor X, HostTensor Y>
auto largest_difference(const X& x, const Y& y) {
  Difference<ViewTypeOf<const X>::rank()> largest;
  Index position = 0;
  Index largest_position = -1;
  detail::for_each_row(
      "largest_difference",
      [&](Index count, auto row_x, auto row_y) {
        for (Index i = 0; i < count; ++i, ++position) {
          const auto b = scalar_cast<double>(ValueOf<const Y>(row_y[i]));
          const double difference =
              detail::distance(scalar_cast<double>(ValueOf<const X>(row_x[i])), b);
          if (std::isfinite(b)) largest.scale = std::max(largest.scale, std::abs(b));
          if (difference > largest.value) {
            largest.value = difference;
            largest_position = position;
          }
        }
      },
      view_of(x), view_of(y));
  if (largest_position >= 0)
    largest.index = detail::multi_index(largest_position, view_of(x).extents().to_array());
  return largest;
}

/// |x − y| ≤ tolerance · max(1, max|y|) for every element; false wherever there is a NaN.
///   CHECK(all_close(y, expected, ssm::tolerance<float>.value));
/// Throws  ShapeError  if extents differ
template <HostTensor X, HostTensor Y>
bool all_close(const X& x, const Y& y, double tolerance) {
  return largest_difference(x, y).within(tolerance);
}

}  // namespace ssm
