// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct ActivationBackward;

/// A pointwise nonlinearity.
///   none        x
///   relu        max(x, 0)
///   gelu_tanh   x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))      H3's and GPT-2's
///   gelu_erf    x/2 · (1 + erf(x/√2))                            S4D's
///   silu        x / (1 + e^−x)
///   sigmoid     1 / (1 + e^−x)
///   tanh        (e^x − e^−x) / (e^x + e^−x)
///   softplus    ln(1 + e^x)
enum class ActivationKind { none, relu, gelu_tanh, gelu_erf, silu, sigmoid, tanh, softplus };

/// y = act(x), or y = act(x) ⊙ gate where a gate is given. With `none` and a gate it is the
/// elementwise product.
/// x, gate, y   [M, D]   any strides; y overwritten, may be the same memory as x or gate
/// Cost    O(M·D)
/// Throws  ShapeError  if extents differ
template <class T, class Space>
struct Activation {
  ActivationKind kind = ActivationKind::none;
  View<const T, 2, Space> x{};
  View<const T, 2, Space> gate{};
  View<T, 2, Space> y{};

  static constexpr const char* name = "activation";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = ActivationBackward<T, Space>;
    visit(input("x", "MD").with_gradient(), &Activation::x, &Gradient::dx);
    visit(input("gate", "MD").optional().with_gradient(), &Activation::gate, &Gradient::dgate);
    visit(output("y", "MD"), &Activation::y, &Gradient::dy);
  }
};

/// The vector–Jacobian product of Activation:  dx = act'(x) ⊙ gate ⊙ dy,  dgate = act(x) ⊙ dy.
/// Both overwritten; dx may be the same memory as dy, dgate must not be.
template <class T, class Space>
struct ActivationBackward {
  Activation<T, Space> forward{};  // y is not read
  View<const T, 2, Space> dy{};
  View<T, 2, Space> dx{};
  View<T, 2, Space> dgate{};  // left out without a gate
};

/// Backends that have the primitive Activation.
template <class B, class T = float>
concept HasActivation = requires(Context<B>& ctx, const Activation<Wide<T>, typename B::Space>& a,
                                 const ActivationBackward<Wide<T>, typename B::Space>& g) {
  B::activation(ctx, a);
  B::activation_backward(ctx, g);
};

/// Computes Activation, whose docstring says the rest.
template <class B, class T>
  requires HasActivation<B, T>
void activation(Context<B>& ctx, const Activation<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::activation(ctx, a); })
    B::activation(ctx, a);
  else
    detail::run_wide(ctx, a, [&](const auto& wide) { activation(ctx, wide); });
}

/// Computes ActivationBackward, whose docstring says the rest.
template <class B, class T>
  requires HasActivation<B, T>
void activation_backward(Context<B>& ctx, const ActivationBackward<T, typename B::Space>& g) {
  require_gradients<Activation<T, typename B::Space>>(g);
  if constexpr (requires { B::activation_backward(ctx, g); })
    B::activation_backward(ctx, g);
  else
    detail::run_wide_gradient<Activation>(
        ctx, g, [&](const auto& wide) { activation_backward(ctx, wide); });
}

}  // namespace ssm
