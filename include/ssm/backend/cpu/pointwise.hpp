// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <numbers>

#include "ssm/backend/cpu/exponential.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/activation.hpp"  // ActivationKind

namespace ssm::cpu {

/// act(x) and act'(x) for a register; the formulas of ActivationKind, with the tanh of a GELU
/// written as a sigmoid of twice its argument.
template <ActivationKind Kind, class B>
B activated(const B& x) {
  using T = typename B::value_type;
  if constexpr (Kind == ActivationKind::relu) return xsimd::max(x, B(T{0}));
  if constexpr (Kind == ActivationKind::gelu_tanh) {
    const B inner = x * xsimd::fma(x * x, B(T(0.044715 * 2 * 0.79788456080286535588)),
                                   B(T(2 * 0.79788456080286535588)));
    return x * sigmoid(inner);
  }
  if constexpr (Kind == ActivationKind::gelu_erf)
    return B(T(0.5)) * x * (B(T{1}) + xsimd::erf(x * B(T(1 / std::numbers::sqrt2))));
  if constexpr (Kind == ActivationKind::silu) return x * sigmoid(x);
  if constexpr (Kind == ActivationKind::sigmoid) return sigmoid(x);
  if constexpr (Kind == ActivationKind::tanh) return xsimd::tanh(x);
  if constexpr (Kind == ActivationKind::softplus) return softplus_of(x);
  if constexpr (Kind == ActivationKind::none) return x;
}

/// The derivative of an activation at x, in a batch of scalars.
template <ActivationKind Kind, class B>
B activation_slope(const B& x) {
  using T = typename B::value_type;
  const B one(T{1});
  if constexpr (Kind == ActivationKind::relu) return xsimd::select(x > B(T{0}), one, B(T{0}));
  if constexpr (Kind == ActivationKind::gelu_tanh) {
    const T root = T(2 * 0.79788456080286535588);    // 2√(2/π)
    const B square = xsimd::min(x * x, B(T(1000)));  // far beyond, s is 0 or 1
    const B s = sigmoid(x * xsimd::fma(square, B(T(0.044715) * root), B(root)));
    const B inner_slope = xsimd::fma(square, B(T(3 * 0.044715) * root), B(root));
    return s + x * s * (one - s) * inner_slope;
  }
  if constexpr (Kind == ActivationKind::gelu_erf) {
    const B normal = B(T(0.39894228040143267794)) * xsimd::exp(B(T(-0.5)) * x * x);
    return B(T(0.5)) * (one + xsimd::erf(x * B(T(1 / std::numbers::sqrt2)))) + x * normal;
  }
  if constexpr (Kind == ActivationKind::silu) {
    const B s = sigmoid(x);
    return s + x * s * (one - s);
  }
  if constexpr (Kind == ActivationKind::sigmoid) {
    const B s = sigmoid(x);
    return s * (one - s);
  }
  if constexpr (Kind == ActivationKind::tanh) {
    const B t = xsimd::tanh(x);
    return one - t * t;
  }
  if constexpr (Kind == ActivationKind::softplus) return sigmoid(x);
  if constexpr (Kind == ActivationKind::none) return one;
}

/// Calls body(std::integral_constant<ActivationKind, k>) for the run-time kind: one decision per
/// call, none per element.
template <class F>
void with_activation(ActivationKind kind, F&& body) {
  using K = ActivationKind;
  switch (kind) {
    case K::none:
      return body(std::integral_constant<K, K::none>{});
    case K::relu:
      return body(std::integral_constant<K, K::relu>{});
    case K::gelu_tanh:
      return body(std::integral_constant<K, K::gelu_tanh>{});
    case K::gelu_erf:
      return body(std::integral_constant<K, K::gelu_erf>{});
    case K::silu:
      return body(std::integral_constant<K, K::silu>{});
    case K::sigmoid:
      return body(std::integral_constant<K, K::sigmoid>{});
    case K::tanh:
      return body(std::integral_constant<K, K::tanh>{});
    case K::softplus:
      return body(std::integral_constant<K, K::softplus>{});
  }
}

}  // namespace ssm::cpu
