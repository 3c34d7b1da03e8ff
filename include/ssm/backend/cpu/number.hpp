// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/backend/cpu/exponential.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/discretize.hpp"  // Complex

namespace ssm::cpu {

/// A register of real numbers (Parts = 1), or two registers of complex ones; in memory the parts
/// follow each other.
template <class T, class Arch, int Parts>
using NumberOf = std::conditional_t<Parts == 2, Complex<Batch<T, Arch>>, Batch<T, Arch>>;

/// Aligned loads and stores of one register of numbers.
template <class T, class Arch, int Parts>
NumberOf<T, Arch, Parts> load_number(const T* from) {
  using R = Batch<T, Arch>;
  if constexpr (Parts == 2)
    return {R::load_aligned(from), R::load_aligned(from + R::size)};
  else
    return R::load_aligned(from);
}
template <class T, class Arch>
void store_number(T* to, const Batch<T, Arch>& z) {
  z.store_aligned(to);
}
template <class T, class Arch>
void store_number(T* to, const Complex<Batch<T, Arch>>& z) {
  z.re.store_aligned(to);
  z.im.store_aligned(to + Batch<T, Arch>::size);
}

/// a·b + c in fused operations; b or c may be real.
template <class R>
R multiply_add(const R& a, const R& b, const R& c) {
  return xsimd::fma(a, b, c);
}
template <class R>
Complex<R> multiply_add(const Complex<R>& a, const Complex<R>& b, const R& c) {
  return {xsimd::fma(a.re, b.re, negated_multiply_add(a.im, b.im, c)),
          xsimd::fma(a.re, b.im, a.im * b.re)};
}
template <class R>
Complex<R> multiply_add(const Complex<R>& a, const Complex<R>& b, const Complex<R>& c) {
  return {xsimd::fma(a.re, b.re, negated_multiply_add(a.im, b.im, c.re)),
          xsimd::fma(a.re, b.im, xsimd::fma(a.im, b.re, c.im))};
}
template <class R>
Complex<R> multiply_add(const Complex<R>& a, const R& b, const Complex<R>& c) {
  return {xsimd::fma(a.re, b, c.re), xsimd::fma(a.im, b, c.im)};
}
/// a·b* + c: the conjugate taken in the signs of the products.
template <class R>
R conjugate_multiply_add(const R& a, const R& b, const R& c) {
  return xsimd::fma(a, b, c);
}
template <class R>
Complex<R> conjugate_multiply_add(const Complex<R>& a, const Complex<R>& b, const Complex<R>& c) {
  return {xsimd::fma(a.re, b.re, xsimd::fma(a.im, b.im, c.re)),
          xsimd::fma(a.im, b.re, negated_multiply_add(a.re, b.im, c.im))};
}
template <class R>
Complex<R> conjugate_multiply_add(const R& a, const Complex<R>& b, const Complex<R>& c) {
  return {xsimd::fma(a, b.re, c.re), negated_multiply_add(a, b.im, c.im)};
}
/// Re(a·b) + c
template <class R>
R real_multiply_add(const R& a, const R& b, const R& c) {
  return xsimd::fma(a, b, c);
}
template <class R>
R real_multiply_add(const Complex<R>& a, const Complex<R>& b, const R& c) {
  return xsimd::fma(a.re, b.re, negated_multiply_add(a.im, b.im, c));
}

/// Numbers of `parts` scalars that lie `stride` apart in memory, their parts `part_stride`: one in
/// each lane, zero beyond `count` and `parts`. The general case stays out of line.
template <class T, class Arch, int Parts>
[[gnu::noinline]] NumberOf<T, Arch, Parts> gather_numbers_apart(const T* from, Index stride,
                                                                Index part_stride, Index count,
                                                                Index parts) {
  constexpr Index lanes = lane_count<T, Arch>;
  alignas(64) T buffer[Parts * lanes];
  for (Index part = 0; part < Parts; ++part)
    for (Index i = 0; i < lanes; ++i)
      buffer[part * lanes + i] =
          i < count && part < parts ? from[i * stride + part * part_stride] : T{0};
  return load_number<T, Arch, Parts>(buffer);
}
template <class T, class Arch, int Parts>
[[gnu::always_inline]] inline NumberOf<T, Arch, Parts> gather_numbers(const T* from, Index stride,
                                                                      Index part_stride,
                                                                      Index count,
                                                                      Index parts = Parts) {
  if constexpr (Parts == 2)
    if (parts == 2 && count == lane_count<T, Arch> && stride == 2 && part_stride == 1) [[likely]] {
      const auto pairs = load_pairs<T, Arch>(from);
      return {pairs.first, pairs.second};
    }
  return gather_numbers_apart<T, Arch, Parts>(from, stride, part_stride, count, parts);
}
template <class T, class Arch, int Parts>
[[gnu::noinline]] void scatter_numbers_apart(T* to, Index stride, Index part_stride, Index count,
                                             const NumberOf<T, Arch, Parts>& value, Index parts) {
  constexpr Index lanes = lane_count<T, Arch>;
  alignas(64) T buffer[Parts * lanes];
  store_number<T, Arch>(buffer, value);
  for (Index part = 0; part < parts; ++part)
    for (Index i = 0; i < count; ++i)
      to[i * stride + part * part_stride] = buffer[part * lanes + i];
}
template <class T, class Arch, int Parts>
[[gnu::always_inline]] inline void scatter_numbers(T* to, Index stride, Index part_stride,
                                                   Index count,
                                                   const NumberOf<T, Arch, Parts>& value,
                                                   Index parts = Parts) {
  if constexpr (Parts == 2)
    if (parts == 2 && count == lane_count<T, Arch> && stride == 2 && part_stride == 1) [[likely]]
      return store_pairs<T, Arch>(to, {value.re, value.im});
  scatter_numbers_apart<T, Arch, Parts>(to, stride, part_stride, count, value, parts);
}

/// Calls body(std::integral_constant<int, parts>): 1 for real numbers, 2 for complex ones.
template <class F>
void with_parts(Index parts, F&& body) {
  if (parts == 2)
    body(std::integral_constant<int, 2>{});
  else
    body(std::integral_constant<int, 1>{});
}

/// e^z and a choice by lanes, in the same words for real and complex numbers.
template <class R>
R exponential_of(const R& z) {
  return xsimd::exp(z);
}
template <class R>
Complex<R> exponential_of(const Complex<R>& z) {
  const auto [sine, cosine] = sine_cosine_of(z.im);
  const R radius = xsimd::exp(z.re);
  return {radius * cosine, radius * sine};
}
template <class M, class R>
R choose(const M& mask, const R& a, const R& b) {
  return xsimd::select(mask, a, b);
}
template <class M, class R>
Complex<R> choose(const M& mask, const Complex<R>& a, const Complex<R>& b) {
  return {xsimd::select(mask, a.re, b.re), xsimd::select(mask, a.im, b.im)};
}

}  // namespace ssm::cpu
