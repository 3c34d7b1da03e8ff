// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numbers>

#include "kernel/parallel.cuh"
#include "ssm/op/activation.hpp"

namespace ssm::cuda::device {

/// 1 / (1 + e^−x)
template <class T>
SSM_HOST_DEVICE T sigmoid(T x) {
  return T{1} / (T{1} + std::exp(-x));
}

/// The argument of gelu_tanh's sigmoid: (1 + tanh(u)) / 2 = sigmoid(2·u).
template <class T>
SSM_HOST_DEVICE T gelu_argument(T x) {
  constexpr T root = static_cast<T>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);  // 2√(2/π)
  return root * (x + static_cast<T>(0.044715) * x * x * x);
}

/// act(x) by the formulas of ActivationKind, in T.
template <class T>
SSM_HOST_DEVICE T activate(ActivationKind kind, T x) {
  switch (kind) {
    case ActivationKind::none:
      return x;
    case ActivationKind::relu:
      return x < T{0} ? T{0} : x;
    case ActivationKind::gelu_tanh:
      return x / (T{1} + std::exp(-gelu_argument(x)));
    case ActivationKind::gelu_erf:
      return x / 2 * (T{1} + std::erf(x * static_cast<T>(std::numbers::sqrt2 / 2)));
    case ActivationKind::silu:
      return x / (T{1} + std::exp(-x));
    case ActivationKind::sigmoid:
      return sigmoid(x);
    case ActivationKind::tanh:
      return std::tanh(x);
    case ActivationKind::softplus:
      return (x < T{0} ? T{0} : x) + std::log1p(std::exp(x < T{0} ? x : -x));
  }
  return x;
}

/// act'(x), in T; 0 for relu at 0.
template <class T>
SSM_HOST_DEVICE T activation_slope(ActivationKind kind, T x) {
  constexpr T root = static_cast<T>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);  // 2√(2/π)
  switch (kind) {
    case ActivationKind::none:
      return T{1};
    case ActivationKind::relu:
      return x > T{0} ? T{1} : T{0};
    case ActivationKind::gelu_tanh: {
      // Beyond 20 the slope is 0 or 1 to the last bit, and no square overflows.
      const T bounded = x > T{20} ? T{20} : x < T{-20} ? T{-20} : x;
      const T share = sigmoid(gelu_argument(bounded));
      const T argument_slope = root * (T{1} + static_cast<T>(3 * 0.044715) * bounded * bounded);
      return share + bounded * share * (T{1} - share) * argument_slope;
    }
    case ActivationKind::gelu_erf:
      return (T{1} + std::erf(x * static_cast<T>(std::numbers::sqrt2 / 2))) / 2 +
             x * (root / 4) * std::exp(-x * x / 2);
    case ActivationKind::silu: {
      const T share = sigmoid(x);
      return share * (T{1} + x * (T{1} - share));
    }
    case ActivationKind::sigmoid: {
      const T share = sigmoid(x);
      return share * (T{1} - share);
    }
    case ActivationKind::tanh: {
      const T value = std::tanh(x);
      return T{1} - value * value;
    }
    case ActivationKind::softplus:
      return sigmoid(x);
  }
  return T{1};
}

}  // namespace ssm::cuda::device
