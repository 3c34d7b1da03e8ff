// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ssm/op/activation.hpp"

namespace ssm::reference {

/// act(x) by the formulas of ActivationKind.
inline double activate(ActivationKind kind, double x) {
  constexpr double root = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // √(2/π)
  switch (kind) {
    case ActivationKind::none:
      return x;
    case ActivationKind::relu:
      return std::max(x, 0.0);
    case ActivationKind::gelu_tanh:
      return x / 2 * (1 + std::tanh(root * (x + 0.044715 * x * x * x)));
    case ActivationKind::gelu_erf:
      return x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
    case ActivationKind::silu:
      return x / (1 + std::exp(-x));
    case ActivationKind::sigmoid:
      return 1 / (1 + std::exp(-x));
    case ActivationKind::tanh:
      return std::tanh(x);
    case ActivationKind::softplus:
      return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
  }
  return x;
}

/// act'(x); 0 for relu at 0.
inline double activation_slope(ActivationKind kind, double x) {
  constexpr double root = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // √(2/π)
  switch (kind) {
    case ActivationKind::none:
      return 1;
    case ActivationKind::relu:
      return x > 0 ? 1 : 0;
    case ActivationKind::gelu_tanh: {
      const double tanh = std::tanh(root * (x + 0.044715 * x * x * x));
      return (1 + tanh) / 2 + x / 2 * (1 - tanh * tanh) * root * (1 + 3 * 0.044715 * x * x);
    }
    case ActivationKind::gelu_erf:
      return (1 + std::erf(x / std::numbers::sqrt2)) / 2 + x * root / 2 * std::exp(-x * x / 2);
    case ActivationKind::silu: {
      const double sigmoid = 1 / (1 + std::exp(-x));
      return sigmoid * (1 + x * (1 - sigmoid));
    }
    case ActivationKind::sigmoid: {
      const double sigmoid = 1 / (1 + std::exp(-x));
      return sigmoid * (1 - sigmoid);
    }
    case ActivationKind::tanh: {
      const double tanh = std::tanh(x);
      return 1 - tanh * tanh;
    }
    case ActivationKind::softplus:
      return 1 / (1 + std::exp(-x));
  }
  return 1;
}

/// Activation, one element at a time.
struct Activation {
  template <class Ctx, Real T>
  static void activation(Ctx&, const ssm::Activation<T, typename Ctx::Space>& a) {
    for (Index m = 0; m < a.x.extent(0); ++m)
      for (Index d = 0; d < a.x.extent(1); ++d) {
        const double gate = a.gate ? a.gate(m, d) : T{1};
        a.y(m, d) = static_cast<T>(activate(a.kind, a.x(m, d)) * gate);
      }
  }

  template <class Ctx, Real T>
  static void activation_backward(Ctx&, const ssm::ActivationBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    for (Index m = 0; m < a.x.extent(0); ++m)
      for (Index d = 0; d < a.x.extent(1); ++d) {
        const double x = a.x(m, d);
        const double dy = g.dy(m, d);
        const double gate = a.gate ? a.gate(m, d) : T{1};
        g.dx(m, d) = static_cast<T>(activation_slope(a.kind, x) * gate * dy);
        if (a.gate) g.dgate(m, d) = static_cast<T>(activate(a.kind, x) * dy);
      }
  }
};

}  // namespace ssm::reference
