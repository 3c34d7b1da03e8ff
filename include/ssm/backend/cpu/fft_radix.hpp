// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numbers>

#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/discretize.hpp"  // Complex

namespace ssm::cpu {

/// z·w and z·conj(w) in four fused operations.
template <class R>
[[gnu::always_inline]] inline Complex<R> times(const Complex<R>& z, const Complex<R>& w) {
  return {xsimd::fnma(z.im, w.im, z.re * w.re), xsimd::fma(z.im, w.re, z.re * w.im)};
}
template <class R>
[[gnu::always_inline]] inline Complex<R> times_conjugate(const Complex<R>& z, const Complex<R>& w) {
  return {xsimd::fma(z.im, w.im, z.re * w.re), xsimd::fnma(z.re, w.im, z.im * w.re)};
}

/// Sign·i·z
template <int Sign, class R>
[[gnu::always_inline]] inline Complex<R> quarter_turn(const Complex<R>& z) {
  if constexpr (Sign > 0)
    return {-z.im, z.re};
  else
    return {z.im, -z.re};
}

/// The discrete Fourier transform of Radix registers, in place.
///   z[t] ← Σ_s z[s] · e^(Sign·2πi·s·t/Radix)
template <int Radix, int Sign>
struct SmallTransform;

template <int Sign>
struct SmallTransform<2, Sign> {
  template <class R>
  [[gnu::always_inline]] static void run(Complex<R>* z) {
    const Complex<R> first = z[0];
    z[0] = first + z[1];
    z[1] = first - z[1];
  }
};

template <int Sign>
struct SmallTransform<3, Sign> {
  template <class R>
  [[gnu::always_inline]] static void run(Complex<R>* z) {
    using T = typename R::value_type;
    const R half(T(-0.5)), sine(T(Sign * 0.86602540378443864676));  // of a third of a turn
    const Complex<R> sum = z[1] + z[2];
    const Complex<R> difference = z[1] - z[2];
    const Complex<R> middle{xsimd::fma(half, sum.re, z[0].re), xsimd::fma(half, sum.im, z[0].im)};
    z[0] = z[0] + sum;
    z[1] = {xsimd::fnma(sine, difference.im, middle.re),
            xsimd::fma(sine, difference.re, middle.im)};
    z[2] = {xsimd::fma(sine, difference.im, middle.re),
            xsimd::fnma(sine, difference.re, middle.im)};
  }
};

template <int Sign>
struct SmallTransform<4, Sign> {
  template <class R>
  [[gnu::always_inline]] static void run(Complex<R>* z) {
    const Complex<R> even_sum = z[0] + z[2];
    const Complex<R> even_difference = z[0] - z[2];
    const Complex<R> odd_sum = z[1] + z[3];
    const Complex<R> odd_difference = z[1] - z[3];
    z[0] = even_sum + odd_sum;
    z[2] = even_sum - odd_sum;
    const Complex<R> up{even_difference.re - odd_difference.im,
                        even_difference.im + odd_difference.re};
    const Complex<R> down{even_difference.re + odd_difference.im,
                          even_difference.im - odd_difference.re};
    z[Sign > 0 ? 1 : 3] = up;
    z[Sign > 0 ? 3 : 1] = down;
  }
};

template <int Sign>
struct SmallTransform<5, Sign> {
  template <class R>
  [[gnu::always_inline]] static void run(Complex<R>* z) {
    using T = typename R::value_type;
    const R cosine1(T(0.30901699437494742410)), cosine2(T(-0.80901699437494742410));
    const R sine1(T(Sign * 0.95105651629515357212)), sine2(T(Sign * 0.58778525229247312917));
    const Complex<R> sum1 = z[1] + z[4], difference1 = z[1] - z[4];
    const Complex<R> sum2 = z[2] + z[3], difference2 = z[2] - z[3];
    const auto mixed = [&](const R& a, const R& b) {  // z₀ + a·sum₁ + b·sum₂
      return Complex<R>{xsimd::fma(a, sum1.re, xsimd::fma(b, sum2.re, z[0].re)),
                        xsimd::fma(a, sum1.im, xsimd::fma(b, sum2.im, z[0].im))};
    };
    const Complex<R> even1 = mixed(cosine1, cosine2), even2 = mixed(cosine2, cosine1);
    const Complex<R> odd1{xsimd::fma(sine1, difference1.re, sine2 * difference2.re),
                          xsimd::fma(sine1, difference1.im, sine2 * difference2.im)};
    const Complex<R> odd2{xsimd::fnma(sine1, difference2.re, sine2 * difference1.re),
                          xsimd::fnma(sine1, difference2.im, sine2 * difference1.im)};
    z[0] = z[0] + sum1 + sum2;
    z[1] = {even1.re - odd1.im, even1.im + odd1.re};
    z[4] = {even1.re + odd1.im, even1.im - odd1.re};
    z[2] = {even2.re - odd2.im, even2.im + odd2.re};
    z[3] = {even2.re + odd2.im, even2.im - odd2.re};
  }
};

template <int Sign>
struct SmallTransform<8, Sign> {
  template <class R>
  [[gnu::always_inline]] static void run(Complex<R>* z) {
    using T = typename R::value_type;
    const R root(T(1 / std::numbers::sqrt2));
    Complex<R> even[4] = {z[0], z[2], z[4], z[6]};
    Complex<R> odd[4] = {z[1], z[3], z[5], z[7]};
    SmallTransform<4, Sign>::run(even);
    SmallTransform<4, Sign>::run(odd);
    if constexpr (Sign > 0) {
      odd[1] = {root * (odd[1].re - odd[1].im), root * (odd[1].re + odd[1].im)};
      odd[3] = {root * (-odd[3].re - odd[3].im), root * (odd[3].re - odd[3].im)};
    } else {
      odd[1] = {root * (odd[1].re + odd[1].im), root * (odd[1].im - odd[1].re)};
      odd[3] = {root * (odd[3].im - odd[3].re), root * (-odd[3].re - odd[3].im)};
    }
    odd[2] = quarter_turn<Sign>(odd[2]);
    unrolled<4>([&](auto t) {
      z[t] = even[t] + odd[t];
      z[t + 4] = even[t] - odd[t];
    });
  }
};

}  // namespace ssm::cpu
