// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// log₂ e and ln 2.
inline constexpr double log2_of_e = 1.44269504088896340736;
inline constexpr double ln_of_2 = 0.69314718055994530942;

/// Coefficients, the lowest first, of the polynomials behind the functions below, with the least
/// worst relative error:
///   exp2    2^x for 0 ≤ x < 1          atanh   2·artanh(√x) / √x for 0 ≤ x ≤ 1/9
///   sine    sin(√x) / √x               cosine  cos(√x),  both for 0 ≤ x ≤ (π/4)²
/// and π/2 in parts so short that the first two are exact times any whole number below `quarters`.
template <class T>
struct Polynomials;
template <>
struct Polynomials<float> {
  static constexpr float exp2[] = {1.0F,          0.693151249F,   0.240157735F,
                                   0.0558360204F, 0.00895988811F, 0.00189510729F};  // 1.5e-7
  static constexpr float atanh[] = {2.0F, 0.666664163F, 0.400215272F, 0.280018054F,
                                    0.280119862F};                                          // 4e-9
  static constexpr float sine[] = {1.0F, -0.166666508F, 0.00833201595F, -0.000195017885F};  // 3e-9
  static constexpr float cosine[] = {1.0F, -0.5F, 0.041666612F, -0.00138865283F,
                                     2.43726354e-05F};  // 6e-11
  static constexpr float half_pi[] = {1.5703125F, 0.000483751297F, 7.54979013e-08F};
  static constexpr float quarters = 8192;
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
  static constexpr double sine[] = {1.0,
                                    -0.16666666666666616,
                                    0.008333333333319995,
                                    -0.00019841269828396968,
                                    2.755731329723433e-06,
                                    -2.5050705565722485e-08,
                                    1.589411990584804e-10};  // 3e-18
  static constexpr double cosine[] = {1.0,
                                      -0.5,
                                      0.04166666666666643,
                                      -0.0013888888888858946,
                                      2.4801587282891882e-05,
                                      -2.75573128637654e-07,
                                      2.087555490287212e-09,
                                      -1.1352111254923795e-11};  // 4e-20
  static constexpr double half_pi[] = {1.570796325802803, 9.920935791635221e-10,
                                       5.170182981794105e-19};
  static constexpr double quarters = 1 << 20;
};

/// Σ coefficients[i]·xⁱ, by Horner.
template <class R, class T, std::size_t N>
[[gnu::always_inline]] inline R polynomial(const R& x, const T (&coefficients)[N]) {
  R sum(coefficients[N - 1]);
  unrolled<static_cast<int>(N) - 1>(
      [&](auto i) { sum = xsimd::fma(sum, x, R(coefficients[N - 2 - i()])); });
  return sum;
}

/// 2^x to the last place or two, NaN for NaN, in half the operations of xsimd::exp. Without AVX-512
/// nothing is smaller than the smallest normal number.
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

/// sin x and cos x.
template <class R>
struct SineCosine {
  R sine, cosine;
};

/// To the last place or two, compared with 1. Angles of many turns are left to the standard
/// library, a lane at a time.
template <class R>
inline SineCosine<R> sine_cosine_of(const R& x) {
  using T = typename R::value_type;
  using P = Polynomials<T>;
  constexpr T quarters_a_radian = static_cast<T>(0.63661977236758134308);  // 2/π
  const R scaled = x * R(quarters_a_radian);
  if (!xsimd::all(xsimd::abs(scaled) < R(P::quarters))) {
    alignas(64) T angle[R::size], sine[R::size], cosine[R::size];
    x.store_aligned(angle);
    for (std::size_t i = 0; i < R::size; ++i) {
      sine[i] = std::sin(angle[i]);
      cosine[i] = std::cos(angle[i]);
    }
    return {R::load_aligned(sine), R::load_aligned(cosine)};
  }
  const R half(T(0.5)), quarters = xsimd::floor(scaled + half);
  R rest = x;  // within half a quarter of a turn
  unrolled<3>([&](auto i) { rest = rest - quarters * R(P::half_pi[i()]); });
  const R square = rest * rest;
  const R sine = rest * polynomial(square, P::sine), cosine = polynomial(square, P::cosine);
  // Of the four quarters: the odd ones exchange the two, and half of them change a sign.
  const auto is_odd = [](const R& whole) {
    const R halved = whole * R(T(0.5));
    return xsimd::floor(halved) != halved;
  };
  const auto exchanges = is_odd(quarters);
  const auto is_sine_negative = is_odd(xsimd::floor(R(quarters * half)));
  const auto is_cosine_negative = is_odd(xsimd::floor(R((quarters + R(T(1))) * half)));
  const R first = xsimd::select(exchanges, cosine, sine);
  const R second = xsimd::select(exchanges, sine, cosine);
  return {xsimd::select(is_sine_negative, -first, first),
          xsimd::select(is_cosine_negative, -second, second)};
}

}  // namespace ssm::cpu
