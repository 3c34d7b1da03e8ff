// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/activation.hpp"  // ActivationKind
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct ShortConvolutionBackward;

/// A short causal filter per channel, with a nonlinearity.
///   y[b,t,d] = act( Σ_w weight[d,w] · x[b,t−W+1+w,d]  +  bias[d] )
/// Before the first position lie the last W − 1 numbers of the initial state.
/// weight          [D, W]        the last tap meets the current position
/// bias            [D]           optional
/// activation                    none or silu
/// x               [B, L, D]
/// segments                      optional: B = 1, each segment is a sequence with a row of state
/// initial_state   [S, D, W]     optional, zero if left out: the last W inputs, oldest first
/// final_state     [S, D, W]     optional, overwritten; may be the same memory as initial_state
/// y               [B, L, D]     overwritten; must not alias x
/// Cost    O(B·L·D·W)
/// Throws  ShapeError  if B, L, D or W disagree; ArgumentError  for another activation
/// Source  Gu and Dao 2023 (Mamba) §3.4; Dao-AILab/causal-conv1d
template <class T, class Space>
struct ShortConvolution {
  View<const Wide<T>, 2, Space> weight{};
  View<const Wide<T>, 1, Space> bias{};
  ActivationKind activation = ActivationKind::none;
  View<const T, 3, Space> x{};
  Segments segments{};
  View<const Wide<T>, 3, Space> initial_state{};
  View<Wide<T>, 3, Space> final_state{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "short_convolution";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = ShortConvolutionBackward<T, Space>;
    visit(input("x", "BLD"), &ShortConvolution::x, &Gradient::dx);
    visit(parameter("weight", "DW"), &ShortConvolution::weight, &Gradient::dweight);
    visit(parameter("bias", "D").optional(), &ShortConvolution::bias, &Gradient::dbias);
    visit(ssm::initial_state("initial_state", "SDW"), &ShortConvolution::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SDW"), &ShortConvolution::final_state,
          &Gradient::dfinal_state);
    visit(output("y", "BLD"), &ShortConvolution::y, &Gradient::dy);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (n['W'] == 0) n.refuse("weight", "must have at least one tap");
    if (activation != ActivationKind::none && activation != ActivationKind::silu)
      throw ArgumentError("short_convolution: the activation must be none or silu");
  }
};

/// The vector–Jacobian product of ShortConvolution. Gradients of x and the initial state are
/// overwritten; gradients of weight and bias are added to. Each may be left out.
template <class T, class Space>
struct ShortConvolutionBackward {
  ShortConvolution<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 3, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<Wide<T>, 3, Space> dinitial_state{};
  View<Wide<T>, 2, Space> dweight{};
  View<Wide<T>, 1, Space> dbias{};
};

/// Backends that have the primitive ShortConvolution.
template <class B, class T = float>
concept HasShortConvolution =
    requires(Context<B>& ctx, const ShortConvolution<Wide<T>, typename B::Space>& a,
             const ShortConvolutionBackward<Wide<T>, typename B::Space>& g) {
  B::short_convolution(ctx, a);
  B::short_convolution_backward(ctx, g);
};

/// Computes ShortConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasShortConvolution<B, T>
void short_convolution(Context<B>& ctx, const ShortConvolution<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::short_convolution(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::short_convolution(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { short_convolution(ctx, wide); });
  }
}

/// Computes ShortConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasShortConvolution<B, T>
void short_convolution_backward(Context<B>& ctx,
                                const ShortConvolutionBackward<T, typename B::Space>& g) {
  require_gradients<ShortConvolution<T, typename B::Space>>(g);
  if constexpr (requires { B::short_convolution_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::short_convolution_backward(ctx, g);
  } else {
    detail::run_wide_gradient<ShortConvolution>(
        ctx, g, [&](const auto& wide) { short_convolution_backward(ctx, wide); });
  }
}

}  // namespace ssm
