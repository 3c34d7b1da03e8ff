// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/error.hpp"     // Index
#include "ssm/op/discretize.hpp"  // Complex

namespace ssm::reference {

/// How often a mode counts: a complex one also stands for its conjugate, which is not stored.
template <class Z>
inline constexpr double mode_weight = 1;
template <class T>
inline constexpr double mode_weight<Complex<T>> = 2;

/// Calls `visit` with a zero of the kind of number that `parts` scalars make: 1 real, 2 complex.
template <class F>
void with_number(Index parts, F&& visit) {
  if (parts == 2)
    visit(Complex<double>{});
  else
    visit(0.0);
}

/// Reads, writes or adds to the number that lies along the last axis of a view.
template <class V, class... I>
void get_number(const V& view, double& number, I... index) {
  number = view(index..., 0);
}
template <class V, class... I>
void get_number(const V& view, Complex<double>& number, I... index) {
  number = {view(index..., 0), view(index..., 1)};
}
template <class V, class... I>
void set_number(const V& view, double number, I... index) {
  view(index..., 0) = static_cast<typename V::Value>(number);
}
template <class V, class... I>
void set_number(const V& view, Complex<double> number, I... index) {
  view(index..., 0) = static_cast<typename V::Value>(number.re);
  view(index..., 1) = static_cast<typename V::Value>(number.im);
}
template <class Z, class V, class... I>
Z number_at(const V& view, I... index) {
  Z number{};
  get_number(view, number, index...);
  return number;
}
template <class V, class Z, class... I>
void add_number(const V& view, Z number, I... index) {
  set_number(view, number_at<Z>(view, index...) + number, index...);
}

}  // namespace ssm::reference
