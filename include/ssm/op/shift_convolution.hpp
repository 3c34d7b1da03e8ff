// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct ShiftConvolutionBackward;

/// A shift state-space model: an N-tap causal filter whose taps are the correlation of C with B,
/// plus a skip.
///   state_t[0] = B[d,0]·x[b,t,d]      state_t[n] = state_{t−1}[n−1] + B[d,n]·x[b,t,d]
///   y[b,t,d]   = Σ_n C[d,n]·state_t[n]  +  skip[d]·x[b,t,d]
/// From a zero state this is the filter taps[s] = Σ_{j<N−s} B[d,j]·C[d,j+s], s < N.
/// B, C            [D, N]
/// skip            [D]        optional
/// x               [B, L, D]
/// segments                   optional: B = 1, each segment is a sequence with a row of state
/// initial_state   [S, D, N]  optional, zero if left out
/// final_state     [S, D, N]  optional, overwritten; may be the same memory as initial_state
/// y               [B, L, D]  overwritten; must not alias the inputs
/// Cost    O(B·L·D·N)
/// Throws  ShapeError  if B, L, D or N disagree
/// Source  Fu et al. 2023 (H3) §3.1; HazyResearch/H3, SSKernelShift
template <class T, class Space>
struct ShiftConvolution {
  View<const Wide<T>, 2, Space> B{};
  View<const Wide<T>, 2, Space> C{};
  View<const Wide<T>, 1, Space> skip{};
  View<const T, 3, Space> x{};
  Segments segments{};
  View<const Wide<T>, 3, Space> initial_state{};
  View<Wide<T>, 3, Space> final_state{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "shift_convolution";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = ShiftConvolutionBackward<T, Space>;
    visit(input("x", "BLD"), &ShiftConvolution::x, &Gradient::dx);
    visit(parameter("B", "DN"), &ShiftConvolution::B, &Gradient::dB);
    visit(parameter("C", "DN"), &ShiftConvolution::C, &Gradient::dC);
    visit(parameter("skip", "D").optional(), &ShiftConvolution::skip, &Gradient::dskip);
    visit(ssm::initial_state("initial_state", "SDN"), &ShiftConvolution::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SDN"), &ShiftConvolution::final_state,
          &Gradient::dfinal_state);
    visit(output("y", "BLD"), &ShiftConvolution::y, &Gradient::dy);
  }
};

/// The vector–Jacobian product of ShiftConvolution. Gradients of x and the initial state are
/// overwritten; gradients of B, C, skip are added to. Each may be left out.
template <class T, class Space>
struct ShiftConvolutionBackward {
  ShiftConvolution<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 3, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<Wide<T>, 3, Space> dinitial_state{};
  View<Wide<T>, 2, Space> dB{};
  View<Wide<T>, 2, Space> dC{};
  View<Wide<T>, 1, Space> dskip{};
};

/// Backends that have the primitive ShiftConvolution.
template <class B, class T = float>
concept HasShiftConvolution =
    requires(Context<B>& ctx, const ShiftConvolution<Wide<T>, typename B::Space>& a,
             const ShiftConvolutionBackward<Wide<T>, typename B::Space>& g) {
  B::shift_convolution(ctx, a);
  B::shift_convolution_backward(ctx, g);
};

/// Computes ShiftConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasShiftConvolution<B, T>
void shift_convolution(Context<B>& ctx, const ShiftConvolution<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::shift_convolution(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::shift_convolution(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { shift_convolution(ctx, wide); });
  }
}

/// Computes ShiftConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasShiftConvolution<B, T>
void shift_convolution_backward(Context<B>& ctx,
                                const ShiftConvolutionBackward<T, typename B::Space>& g) {
  require_gradients<ShiftConvolution<T, typename B::Space>>(g);
  if constexpr (requires { B::shift_convolution_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::shift_convolution_backward(ctx, g);
  } else {
    detail::run_wide_gradient<ShiftConvolution>(
        ctx, g, [&](const auto& wide) { shift_convolution_backward(ctx, wide); });
  }
}

}  // namespace ssm
