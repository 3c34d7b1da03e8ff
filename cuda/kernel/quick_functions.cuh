// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/activation_functions.cuh"

namespace ssm::cuda::device {

// Functions of a few instructions, right to about 22 bits, for kernels that would wait for the
// exact ones. In double, and where a C++ compiler compiles them, they are the exact ones.

/// 1 / x
template <class W>
SSM_HOST_DEVICE W quick_reciprocal(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return W{1} / x;
}

/// 2^x
template <class W>
SSM_HOST_DEVICE W quick_exp2(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return std::exp2(x);
}

/// e^x
template <class W>
SSM_HOST_DEVICE W quick_exp(W x) {
  return quick_exp2(x * static_cast<W>(std::numbers::log2e));
}

/// 1 / (1 + e^−x)
template <class W>
SSM_HOST_DEVICE W quick_sigmoid(W x) {
  return quick_reciprocal(W{1} + quick_exp(-x));
}

/// ln(1 + e^x)
template <class W>
SSM_HOST_DEVICE W quick_softplus(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    const float e = quick_exp(-fabsf(x));
    float logarithm;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(1 + e));
    // Near 1 the logarithm would lose the digits of a small e.
    const float series = e * (1 + e * (-0.5f + e * (0.33333333f - 0.25f * e)));
    const float rest = e < 0.0078125f ? series : 0.69314718f * logarithm;
    return fmaxf(x, 0.0f) + rest;
  }
#endif
  return activate<W>(ActivationKind::softplus, x);
}

/// act(x), of none or silu.
template <class W>
SSM_HOST_DEVICE W quick_silu_or_none(ActivationKind kind, W x) {
  return kind == ActivationKind::silu ? x * quick_sigmoid(x) : x;
}

/// act'(x), of none or silu.
template <class W>
SSM_HOST_DEVICE W quick_silu_or_none_slope(ActivationKind kind, W x) {
  if (kind != ActivationKind::silu) return W{1};
  const W share = quick_sigmoid(x);
  return share * (W{1} + x * (W{1} - share));
}

/// A function's value and slope, for kernels that want one or both.
template <class W>
struct ValueAndSlope {
  W value;
  W slope;
};

/// The distribution function of the standard normal and its density, at x.
template <class W>
SSM_HOST_DEVICE ValueAndSlope<W> quick_normal_distribution(W x) {
  constexpr W half_root = static_cast<W>(std::numbers::sqrt2 / 2);
  constexpr W peak = half_root * static_cast<W>(std::numbers::inv_sqrtpi);  // 1/√(2π)
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    // e^(z²)·erfc(z) = t·polynomial(t) of t = 1/(1 + 0.38·z), fitted for 0 ≤ z ≤ 9.5 to 1.3e-6 of
    // its value: tails keep their digits.
    const float z = fabsf(x) * half_root;
    const float t = quick_reciprocal(1 + 0.38f * z);
    float polynomial = -0.12614397f;
    polynomial = polynomial * t + 0.33879803f;
    polynomial = polynomial * t - 0.07409535f;
    polynomial = polynomial * t + 0.25103725f;
    polynomial = polynomial * t + 0.17929825f;
    polynomial = polynomial * t + 0.21683749f;
    polynomial = polynomial * t + 0.21426728f;
    const float fade = quick_exp(-z * z);
    const float tail = 0.5f * t * polynomial * fade;
    return {x < 0 ? tail : 1 - tail, peak * fade};
  }
#endif
  return {(W{1} + std::erf(x * half_root)) / 2, peak * std::exp(-x * x / 2)};
}

/// tanh(x)
template <class W>
SSM_HOST_DEVICE W quick_tanh(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    // Near 0 the difference would lose the digits of x.
    const float square = x * x;
    const float series =
        x + x * square * (-0.33333333f + square * (0.13333333f - 0.053968254f * square));
    const float e = quick_exp(-2 * fabsf(x));
    const float rest = copysignf((1 - e) * quick_reciprocal(1 + e), x);
    return square < 0.04f ? series : rest;
  }
#endif
  return std::tanh(x);
}

/// What gelu_tanh(x) is of x, where `square` is x²: (1 + tanh(u)) / 2 = sigmoid(2·u) of
/// 2·u = x·(gelu_root + gelu_cubic·x²).
template <class W>
inline constexpr W gelu_root = static_cast<W>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
template <class W>
inline constexpr W gelu_cubic = static_cast<W>(0.044715) * gelu_root<W>;
template <class W>
SSM_HOST_DEVICE W quick_gelu_share(W x, W square) {
  constexpr W log2e = static_cast<W>(std::numbers::log2e);
  constexpr W linear = -log2e * gelu_root<W>, cubic = -log2e * gelu_cubic<W>;
  return quick_reciprocal(W{1} + quick_exp2(x * (linear + cubic * square)));
}
/// gelu_tanh(x) and its slope.
template <class W>
SSM_HOST_DEVICE ValueAndSlope<W> quick_gelu(W x) {
  // Beyond 20 the slope is 0 or 1 to the last bit, and no square overflows.
  const W square = x * x < W{400} ? x * x : W{400};
  const W share = quick_gelu_share(x, square), value = x * share;
  return {value, share + value * (W{1} - share) * (gelu_root<W> + 3 * gelu_cubic<W> * square)};
}

/// act(x)
template <class W>
SSM_HOST_DEVICE W quick_activate(ActivationKind kind, W x) {
  switch (kind) {
    case ActivationKind::gelu_tanh:
      return x * quick_gelu_share(x, x * x);
    case ActivationKind::gelu_erf:
      return x * quick_normal_distribution(x).value;
    case ActivationKind::silu:
      return x * quick_sigmoid(x);
    case ActivationKind::sigmoid:
      return quick_sigmoid(x);
    case ActivationKind::tanh:
      return quick_tanh(x);
    case ActivationKind::softplus:
      return quick_softplus(x);
    default:
      return activate(kind, x);
  }
}

/// act'(x)
template <class W>
SSM_HOST_DEVICE W quick_activation_slope(ActivationKind kind, W x) {
  // s·(1 − s) of s = sigmoid(u), with the digits of both tails.
  const auto sigmoid_slope = [](W u) {
    const W e = quick_exp(u < W{0} ? u : -u), share = quick_reciprocal(W{1} + e);
    return e * share * share;
  };
  switch (kind) {
    case ActivationKind::gelu_tanh:
      return quick_gelu(x).slope;
    case ActivationKind::gelu_erf: {
      const auto normal = quick_normal_distribution(x);
      return normal.value + x * normal.slope;
    }
    case ActivationKind::silu:
      return quick_silu_or_none_slope(kind, x);
    case ActivationKind::sigmoid:
      return sigmoid_slope(x);
    case ActivationKind::tanh:
      return W{4} * sigmoid_slope(W{2} * x);  // 1 − tanh² = 4·s·(1 − s) of s = sigmoid(2·x)
    case ActivationKind::softplus:
      return quick_sigmoid(x);
    default:
      return activation_slope(kind, x);
  }
}

/// The functions for numbers kept in T: quick ones where T has fewer digits than those give.
template <class T>
SSM_HOST_DEVICE Wide<T> activate_number(ActivationKind kind, Wide<T> x) {
  if constexpr (HalfStorage<T>) return quick_activate(kind, x);
  return activate(kind, x);
}
template <class T>
SSM_HOST_DEVICE Wide<T> activation_number_slope(ActivationKind kind, Wide<T> x) {
  if constexpr (HalfStorage<T>) return quick_activation_slope(kind, x);
  return activation_slope(kind, x);
}

template <ActivationKind kind>
using KnownKind = std::integral_constant<ActivationKind, kind>;
/// f(KnownKind<kind>()): a branch around what f does to many numbers, and none within it.
template <class F>
SSM_HOST_DEVICE void with_known_kind(ActivationKind kind, F f) {
  switch (kind) {
    case ActivationKind::none:
      return f(KnownKind<ActivationKind::none>());
    case ActivationKind::relu:
      return f(KnownKind<ActivationKind::relu>());
    case ActivationKind::gelu_tanh:
      return f(KnownKind<ActivationKind::gelu_tanh>());
    case ActivationKind::gelu_erf:
      return f(KnownKind<ActivationKind::gelu_erf>());
    case ActivationKind::silu:
      return f(KnownKind<ActivationKind::silu>());
    case ActivationKind::sigmoid:
      return f(KnownKind<ActivationKind::sigmoid>());
    case ActivationKind::tanh:
      return f(KnownKind<ActivationKind::tanh>());
    case ActivationKind::softplus:
      return f(KnownKind<ActivationKind::softplus>());
  }
}

}  // namespace ssm::cuda::device
