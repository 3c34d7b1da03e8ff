// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/parallel.cuh"
#include "ssm/op/discretize.hpp"  // Complex

namespace ssm::cuda::device {

/// What the last axis of coefficients and states holds: one scalar, or the two of a complex number.
template <class Z>
struct Number {
  using Scalar = Z;
  using Precise = double;
  static constexpr int parts = 1;
  static constexpr int weight = 1;  // how often a mode counts
};
template <class T>
struct Number<ssm::Complex<T>> {
  using Scalar = T;
  using Precise = ssm::Complex<double>;
  static constexpr int parts = 2;
  static constexpr int weight = 2;  // it also stands for its conjugate, which is not stored
};

template <class Z, class V, class... I>
SSM_HOST_DEVICE Z number_at(const V& view, I... index) {
  using T = typename Number<Z>::Scalar;
  if constexpr (Number<Z>::parts == 2)
    return {static_cast<T>(view(index..., 0)), static_cast<T>(view(index..., 1))};
  else
    return static_cast<T>(view(index..., 0));
}
template <class V, class T, class... I>
SSM_HOST_DEVICE void set_number(const V& view, T number, I... index) {
  view(index..., 0) = number;
}
template <class V, class T, class... I>
SSM_HOST_DEVICE void set_number(const V& view, ssm::Complex<T> number, I... index) {
  view(index..., 0) = number.re;
  view(index..., 1) = number.im;
}
/// view += number, added in the number's own precision.
template <class V, class T, class... I>
SSM_HOST_DEVICE void add_number(const V& view, T number, I... index) {
  auto& sum = view(index..., 0);
  sum = static_cast<std::remove_reference_t<decltype(sum)>>(sum + number);
}
template <class V, class T, class... I>
SSM_HOST_DEVICE void add_number(const V& view, ssm::Complex<T> number, I... index) {
  add_number(view, number.re, index...);
  auto& sum = view(index..., 1);
  sum = static_cast<std::remove_reference_t<decltype(sum)>>(sum + number.im);
}

template <class T>
SSM_HOST_DEVICE double precise(T number) {
  return number;
}
template <class T>
SSM_HOST_DEVICE ssm::Complex<double> precise(ssm::Complex<T> number) {
  return {number.re, number.im};
}
template <class Z>
SSM_HOST_DEVICE Z rounded(double number) {
  return static_cast<Z>(number);
}
template <class Z>
SSM_HOST_DEVICE Z rounded(ssm::Complex<double> number) {
  using T = typename Number<Z>::Scalar;
  return {static_cast<T>(number.re), static_cast<T>(number.im)};
}

}  // namespace ssm::cuda::device
