// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct CausalConvolutionBackward;

/// Convolves each channel with its own causal kernel: the parallel form of a linear time-invariant
/// SSM.
///   u = gate_in · x
///   y[b,t,d] = gate_out[b,t,d] · ( Σ_{s<K, s≤t} kernel[d,s] · u[b,t−s,d]  +  skip[d] · u[b,t,d] )
/// kernel              [D, K]      time domain; K may differ from L
/// skip                [D]         optional
/// x                   [B, L, D]
/// gate_in, gate_out   [B, L, D]   optional
/// segments                        optional: B = 1, each segment is a sequence of its own
/// y                   [B, L, D]   overwritten; must not alias the inputs
/// Cost    O(B·D·L·log L)
/// Throws  ShapeError  if B, L or D disagree
/// Source  Fu et al. 2023 (H3) §4.1; Gu et al. 2022 (S4D) eq. 3
template <class T, class Space>
struct CausalConvolution {
  View<const Wide<T>, 2, Space> kernel{};
  View<const Wide<T>, 1, Space> skip{};
  View<const T, 3, Space> x{};
  View<const T, 3, Space> gate_in{};
  View<const T, 3, Space> gate_out{};
  Segments segments{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "causal_convolution";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = CausalConvolutionBackward<T, Space>;
    visit(input("x", "BLD"), &CausalConvolution::x, &Gradient::dx);
    visit(parameter("kernel", "DK"), &CausalConvolution::kernel, &Gradient::dkernel);
    visit(parameter("skip", "D").optional(), &CausalConvolution::skip, &Gradient::dskip);
    visit(input("gate_in", "BLD").optional(), &CausalConvolution::gate_in, &Gradient::dgate_in);
    visit(input("gate_out", "BLD").optional(), &CausalConvolution::gate_out, &Gradient::dgate_out);
    visit(output("y", "BLD"), &CausalConvolution::y, &Gradient::dy);
  }
};

/// The vector–Jacobian product of CausalConvolution. Gradients of inputs are overwritten and may be
/// left out; gradients of parameters are added to and may be left out.
template <class T, class Space>
struct CausalConvolutionBackward {
  CausalConvolution<T, Space> forward{};  // y is not read
  View<const T, 3, Space> dy{};
  View<T, 3, Space> dx{};
  View<T, 3, Space> dgate_in{};
  View<T, 3, Space> dgate_out{};
  View<Wide<T>, 2, Space> dkernel{};
  View<Wide<T>, 1, Space> dskip{};
};

/// Backends that have the primitive CausalConvolution.
template <class B, class T = float>
concept HasCausalConvolution =
    requires(Context<B>& ctx, const CausalConvolution<Wide<T>, typename B::Space>& a,
             const CausalConvolutionBackward<Wide<T>, typename B::Space>& g) {
  B::causal_convolution(ctx, a);
  B::causal_convolution_backward(ctx, g);
};

/// Computes CausalConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasCausalConvolution<B, T>
void causal_convolution(Context<B>& ctx, const CausalConvolution<T, typename B::Space>& a) {
  require_operands(a);
  if (detail::runs_across_ranks(ctx, a, a.name)) return;
  if constexpr (requires { B::causal_convolution(ctx, a); })
    B::causal_convolution(ctx, a);
  else
    detail::run_wide(ctx, a, [&](const auto& wide) { causal_convolution(ctx, wide); });
}

/// Computes CausalConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasCausalConvolution<B, T>
void causal_convolution_backward(Context<B>& ctx,
                                 const CausalConvolutionBackward<T, typename B::Space>& g) {
  require_gradients<CausalConvolution<T, typename B::Space>>(g);
  if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
  if constexpr (requires { B::causal_convolution_backward(ctx, g); })
    B::causal_convolution_backward(ctx, g);
  else
    detail::run_wide_gradient<CausalConvolution>(
        ctx, g, [&](const auto& wide) { causal_convolution_backward(ctx, wide); });
}

}  // namespace ssm
