// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdio>
#include <ostream>
#include <string>

#include "ssm/core/elementwise.hpp"

namespace ssm {
namespace detail {

inline constexpr Index print_whole = 1000;  // elements; larger tensors lose the middle of each axis
inline constexpr Index print_edge = 3;      // elements kept at each end of an axis

template <class T>
std::string element_text(T value, int precision) {
  if constexpr (std::integral<T>) {
    return std::to_string(value);
  } else {
    char text[64];
    std::snprintf(text, sizeof text, "%.*g", std::min(precision, 40),
                  static_cast<double>(arithmetic(value)));
    return text;
  }
}

/// Calls visit(index) for the shown part of an axis, and visit(-1) where the middle is left out.
template <class Visit>
void for_each_shown(Index extent, bool elide, Visit&& visit) {
  for (Index i = 0; i < extent; ++i) {
    if (elide && extent > 2 * print_edge && i == print_edge) {
      visit(Index{-1});
      i = extent - print_edge;
    }
    visit(i);
  }
}

struct PrintFormat {
  int precision;
  bool elide;
  std::size_t width;
};

template <class View>
std::size_t widest_element(const View& view, const PrintFormat& format) {
  if constexpr (View::rank() == 0) {
    return element_text(view(), format.precision).size();
  } else {
    std::size_t width = 0;
    for_each_shown(view.extent(0), format.elide, [&](Index i) {
      if (i >= 0) width = std::max(width, widest_element(view.select(0, i), format));
    });
    return width;
  }
}

template <class View>
void print(std::ostream& out, const View& view, const PrintFormat& format, std::size_t depth) {
  if constexpr (View::rank() == 0) {
    const std::string text = element_text(view(), format.precision);
    out << std::string(format.width - text.size(), ' ') << text;
  } else {
    const std::string between =
        View::rank() == 1 ? std::string(", ")
                          : "," + std::string(static_cast<std::size_t>(View::rank() - 1), '\n') +
                                std::string(depth + 1, ' ');
    out << '[';
    for_each_shown(view.extent(0), format.elide, [&](Index i) {
      if (i != 0) out << between;
      if (i < 0) {
        out << "...";
      } else {
        print(out, view.select(0, i), format, depth + 1);
      }
    });
    out << ']';
  }
}

}  // namespace detail

/// Prints nested brackets in columns, at the stream's precision; above 1000 elements the middle of
/// each axis is left out.
///   [[1, 2.5],
///    [3,  -4]]
template <class T, class E, class S>
  requires(bool{S::host_readable})
std::ostream& operator<<(std::ostream& out, const TensorView<T, E, S>& view) {
  if (!view) return out << "null";
  if (view.size() == 0) return out << "[] of " << shape_text(view.extents().to_array());
  detail::PrintFormat format{.precision = static_cast<int>(out.precision()),
                             .elide = view.size() > detail::print_whole,
                             .width = 0};
  format.width = detail::widest_element(view, format);
  detail::print(out, view, format, 0);
  return out;
}

template <class T, class E, class S>
  requires(bool{S::host_readable})
std::ostream& operator<<(std::ostream& out, const Tensor<T, E, S>& tensor) {
  return out << tensor.view();
}

}  // namespace ssm
