// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/op/discretization.hpp"

namespace ssm {

/// A complex number as two scalars. Unlike std::complex it is the same on every device and its
/// product is the plain formula, without the repair of infinities.
template <class T>
struct Complex {
  T re{};
  T im{};

  friend constexpr Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
  friend constexpr Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
  friend constexpr Complex operator*(Complex a, Complex b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
  friend constexpr Complex operator+(T a, Complex b) { return {a + b.re, b.im}; }
  friend constexpr Complex operator-(T a, Complex b) { return {a - b.re, -b.im}; }
  friend constexpr Complex operator*(T a, Complex b) { return {a * b.re, a * b.im}; }
  friend constexpr Complex operator*(Complex a, T b) { return b * a; }
  friend constexpr Complex operator/(Complex a, T b) { return {a.re / b, a.im / b}; }
  friend constexpr Complex operator/(T a, Complex b) {
    const T norm = b.re * b.re + b.im * b.im;
    return {a * b.re / norm, -a * b.im / norm};
  }
  constexpr Complex& operator+=(Complex b) { return *this = *this + b; }
  friend constexpr bool operator==(Complex a, Complex b) { return a.re == b.re && a.im == b.im; }
};

/// The same words for real and complex numbers, so that one text serves both.
template <class T>
constexpr T conjugate(T z) {
  return z;
}
template <class T>
constexpr Complex<T> conjugate(Complex<T> z) {
  return {z.re, -z.im};
}
template <class T>
constexpr T real_part(T z) {
  return z;
}
template <class T>
constexpr T real_part(Complex<T> z) {
  return z.re;
}
template <class T>
constexpr T squared_magnitude(T z) {
  return z * z;
}
template <class T>
constexpr T squared_magnitude(Complex<T> z) {
  return z.re * z.re + z.im * z.im;
}
template <class T>
constexpr T exponential(T z) {
  return std::exp(z);
}
template <class T>
constexpr Complex<T> exponential(Complex<T> z) {
  const T radius = std::exp(z.re);
  return {radius * std::cos(z.im), radius * std::sin(z.im)};
}

/// One step of one mode: state ← A·state + B·u.
template <class Z>
struct DiscreteMode {
  Z A;
  Z B;
};

/// The gradient of what `discretize` reads; complex ones are (∂/∂Re, ∂/∂Im).
template <class T, class Z>
struct DiscretizeGradient {
  T ddt;
  Z dA;
  Z dB;
};

namespace detail {

/// Both discretizations are Ā = decay(z), B̄ = dt·B·gain(z) with z = dt·A; these are the functions
/// and their derivatives.
template <class Z>
struct StepFactors {
  Z decay;
  Z gain;
  Z decay_slope;
  Z gain_slope;
};

template <class T, class Z>
constexpr StepFactors<Z> bilinear_factors(Z z) {
  const Z half = z / T{2};
  const Z gain = T{1} / (T{1} - half);
  return {.decay = (T{1} + half) * gain,
          .gain = gain,
          .decay_slope = gain * gain,
          .gain_slope = gain * gain / T{2}};
}

/// gain = (eᶻ − 1) / z, whose differences lose all digits near 0: the series Σ zᵏ/(k+1)! holds
/// there, A = 0 included.
template <class T, class Z>
constexpr StepFactors<Z> zero_order_hold_factors(Z z) {
  constexpr int terms = 20;  // 1/21! is below the last bit of a double
  const Z one{T{1}};
  const Z decay = exponential(z);
  if (squared_magnitude(z) < T{1}) {
    Z gain = one;
    Z slope{};
    for (int k = terms; k >= 2; --k) {
      slope = (gain + z * slope) / static_cast<T>(k);
      gain = one + z * gain / static_cast<T>(k);
    }
    return {.decay = decay, .gain = gain, .decay_slope = decay, .gain_slope = slope};
  }
  const Z reciprocal = T{1} / z;
  const Z gain = (decay - one) * reciprocal;
  return {.decay = decay,
          .gain = gain,
          .decay_slope = decay,
          .gain_slope = (decay - gain) * reciprocal};
}

template <class T, class Z>
constexpr StepFactors<Z> step_factors(Discretization kind, T dt, Z A) {
  return kind == Discretization::bilinear ? bilinear_factors<T>(dt * A)
                                          : zero_order_hold_factors<T>(dt * A);
}

}  // namespace detail

/// (dt, A, B) → (Ā, B̄) of one mode by the formulas of Discretization.
/// dt     T                seconds
/// A, B   T or Complex<T>
/// Exact to rounding for A → 0, where B̄ → dt·B.
/// Source  Gu et al. 2022 (S4D) §3.1
template <class T, class Z>
constexpr DiscreteMode<Z> discretize(Discretization kind, T dt, Z A, Z B) {
  const auto step = detail::step_factors(kind, dt, A);
  return {.A = step.decay, .B = (dt * B) * step.gain};
}

/// The vector–Jacobian product of `discretize`, given the gradients of Ā and B̄.
template <class T, class Z>
constexpr DiscretizeGradient<T, Z> discretize_backward(Discretization kind, T dt, Z A, Z B,
                                                       DiscreteMode<Z> gradient) {
  const auto step = detail::step_factors(kind, dt, A);
  const Z dz =
      gradient.A * conjugate(step.decay_slope) + gradient.B * conjugate((dt * B) * step.gain_slope);
  return {.ddt = real_part(gradient.B * conjugate(B * step.gain)) + real_part(dz * conjugate(A)),
          .dA = dt * dz,
          .dB = gradient.B * conjugate(dt * step.gain)};
}

}  // namespace ssm
