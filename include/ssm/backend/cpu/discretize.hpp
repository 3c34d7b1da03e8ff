// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/number.hpp"

namespace ssm::cpu {

/// ssm::discretize for a register of modes, and the derivatives.
///   Ā = decay(z)    B̄ = dt·B·gain(z)    with z = dt·A
template <class Z>
struct StepFactors {
  Z decay, gain, decay_slope, gain_slope;
};
/// The two of the bilinear form that need no derivatives, in the caller's registers.
template <class R, class Z>
[[gnu::always_inline]] inline void bilinear_factors(const R& dt, const Z& A, Z& decay, Z& gain) {
  using T = typename R::value_type;
  const R one(T{1}), half(T(0.5));
  const Z z = dt * A;
  gain = one / (one - half * z);
  decay = (one + half * z) * gain;
}
template <class R, class Z>
[[gnu::noinline]] StepFactors<Z> step_factors(  // once, not in every caller: it is large
    Discretization kind, const R& dt, const Z& A) {
  using T = typename R::value_type;
  const R one(T{1}), half(T(0.5));
  const Z z = dt * A;
  if (kind == Discretization::bilinear) {
    const Z gain = one / (one - half * z);
    const Z square = gain * gain;
    return {.decay = (one + half * z) * gain,
            .gain = gain,
            .decay_slope = square,
            .gain_slope = half * square};
  }
  constexpr int terms = sizeof(T) == 4 ? 10 : 19;  // of Σ zᵏ/(k+1)! for |z| < 1
  const auto near_zero = squared_magnitude(z) < one;
  const Z unit = one + R(T{0}) * z;
  const Z decay = exponential_of(z);
  const Z reciprocal = one / choose(near_zero, unit, z);
  Z gain = (decay - unit) * reciprocal;
  Z slope = (decay - gain) * reciprocal;
  if (xsimd::any(near_zero)) {
    Z gain_series = unit;
    Z slope_series = R(T{0}) * z;
    for (int k = terms; k >= 2; --k) {
      const R share(T{1} / static_cast<T>(k));
      slope_series = share * (gain_series + z * slope_series);
      gain_series = one + share * (z * gain_series);
    }
    gain = choose(near_zero, gain_series, gain);
    slope = choose(near_zero, slope_series, slope);
  }
  return {.decay = decay, .gain = gain, .decay_slope = decay, .gain_slope = slope};
}

/// The vector–Jacobian product, from the gradients of Ā and B̄.
template <class R, class Z>
struct StepGradient {
  R ddt;
  Z dA, dB;
};
template <class R, class Z>
StepGradient<R, Z> step_gradient(Discretization kind, const R& dt, const Z& A, const Z& B,
                                 const Z& ddecay, const Z& dinput) {
  const auto step = step_factors(kind, dt, A);
  const Z dz =
      ddecay * conjugate(step.decay_slope) + dinput * conjugate((dt * B) * step.gain_slope);
  return {.ddt = real_part(dinput * conjugate(B * step.gain)) + real_part(dz * conjugate(A)),
          .dA = dt * dz,
          .dB = dinput * conjugate(dt * step.gain)};
}

}  // namespace ssm::cpu
