// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <limits>
#include <type_traits>

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// log₂ e and ln 2.
inline constexpr double log2_of_e = 1.44269504088896340736;
inline constexpr double ln_of_2 = 0.69314718055994530942;

/// Coefficients, the lowest first, of the polynomials behind the functions below, with the least worst relative error:
///   exp2    2^x for 0 ≤ x < 1          atanh   2·artanh(√x) / √x for 0 ≤ x ≤ 1/9
template <class T>
struct Polynomials;
template <>
struct Polynomials<float> {
  static constexpr float exp2[] = {1.0F,          0.693151249F,   0.240157735F,
                                   0.0558360204F, 0.00895988811F, 0.00189510729F};  // 1.5e-7
  static constexpr float atanh[] = {2.0F, 0.666664163F, 0.400215272F, 0.280018054F,
                                    0.280119862F};  // 4e-9
};
template <>
struct Polynomials<double> {
  static constexpr double exp2[] = {1.0,
                                    0.6931471805599457,
                                    0.2402265069590706,
                                    0.05550410866554586,
                                    0.0096181290995451,
                                    0.0013333558649591835,
                                    0.0001540351120440273,
                                    1.5253204535784542e-05,
                                    1.3207917640291687e-06,
                                    1.0257210380858223e-07,
                                    6.540216830044798e-09,
                                    6.302690883774893e-10};  // 6e-18
  static constexpr double atanh[] = {2.0,
                                     0.666666666666777,
                                     0.3999999999604971,
                                     0.2857142905799588,
                                     0.22222192904749402,
                                     0.18182814069018916,
                                     0.1536429559422593,
                                     0.13586313487209342,
                                     0.09902825318148394,
                                     0.1773974888053659};  // 5e-17
};

/// Σ coefficients[i]·xⁱ, by Horner.
template <class R, class T, std::size_t N>
[[gnu::always_inline]] inline R polynomial(const R& x, const T (&coefficients)[N]) {
  R sum(coefficients[N - 1]);
  unrolled<static_cast<int>(N) - 1>(
      [&](auto i) { sum = xsimd::fma(sum, x, R(coefficients[N - 2 - i()])); });
  return sum;
}

/// 2^x to the last place or two, NaN for NaN, in half the operations of xsimd::exp. Without AVX-512 nothing is smaller than
/// the smallest normal number.
template <class R>
[[gnu::always_inline]] inline R exp2_of(const R& x) {
  using T = typename R::value_type;
  using P = Polynomials<T>;
#if defined(__AVX512DQ__)
  constexpr int toward_minus_infinity = 1;
  if constexpr (sizeof(R) == 64) {  // the fraction in one instruction, the whole part in another
    if constexpr (std::is_same_v<T, float>)
      return _mm512_scalef_ps(polynomial(R(_mm512_reduce_ps(x, toward_minus_infinity)), P::exp2),
                              x);
    else
      return _mm512_scalef_pd(polynomial(R(_mm512_reduce_pd(x, toward_minus_infinity)), P::exp2),
                              x);
  }
#endif
  constexpr T low = std::numeric_limits<T>::min_exponent - 1;
  constexpr T high = std::numeric_limits<T>::max_exponent;
  const R bounded = xsimd::min(R(high), xsimd::max(R(low), x));  // this order lets NaN through
  const R whole = xsimd::min(xsimd::floor(bounded), R(high - 1));
  return xsimd::ldexp(polynomial(R(bounded - whole), P::exp2), xsimd::to_int(whole));
}

/// e^x, with the accuracy of exp2_of.
template <class R>
[[gnu::always_inline]] inline R exp_of(const R& x) {
  using T = typename R::value_type;
  return exp2_of(R(x * R(static_cast<T>(log2_of_e))));
}

/// 1 / (1 + e^−x)
template <class R>
[[gnu::always_inline]] inline R sigmoid_of(const R& x) {
  using T = typename R::value_type;
  const R one(T{1});
  return one / (one + exp2_of(R(x * R(static_cast<T>(-log2_of_e)))));
}

/// ln(1 + e^x) and its derivative, the sigmoid.
template <class R>
struct Softplus {
  R value, slope;
};

/// With full relative precision at both ends:  max(x, 0) + 2·artanh(e / (2 + e)),  e = e^−|x|.
template <class R>
[[gnu::always_inline]] inline Softplus<R> softplus_with_slope(const R& x) {
  using T = typename R::value_type;
  const R one(T{1});
  const R e = exp2_of(R(xsimd::abs(x) * R(static_cast<T>(-log2_of_e))));
  const R s = e / (R(T{2}) + e);
  return {xsimd::fma(s, polynomial(R(s * s), Polynomials<T>::atanh), xsimd::max(R(T{0}), x)),
          xsimd::select(x < R(T{0}), e, one) / (one + e)};
}
template <class R>
[[gnu::always_inline]] inline R softplus_of(const R& x) {
  return softplus_with_slope(x).value;
}

}  // namespace ssm::cpu
