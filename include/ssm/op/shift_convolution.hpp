// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

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
  View<const T, 2, Space> B{};
  View<const T, 2, Space> C{};
  View<const T, 1, Space> skip{};
  View<const T, 3, Space> x{};
  Segments segments{};
  View<const T, 3, Space> initial_state{};
  View<T, 3, Space> final_state{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of ShiftConvolution. Gradients of x and the initial state are
/// overwritten; gradients of B, C, skip are added to. Each may be left out.
template <class T, class Space>
struct ShiftConvolutionBackward {
  ShiftConvolution<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const T, 3, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<T, 3, Space> dinitial_state{};
  View<T, 2, Space> dB{};
  View<T, 2, Space> dC{};
  View<T, 1, Space> dskip{};
};

/// Backends that have the primitive ShiftConvolution.
template <class B, class T = float>
concept HasShiftConvolution = requires(Context<B>& ctx,
                                       const ShiftConvolution<T, typename B::Space>& a,
                                       const ShiftConvolutionBackward<T, typename B::Space>& g) {
  B::shift_convolution(ctx, a);
  B::shift_convolution_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const ShiftConvolution<T, Space>& a) {
  const char* op = "shift_convolution";
  require_extents(op, "x", a.x, {dyn, dyn, dyn});
  const Index batch = a.x.extent(0);
  const Index length = a.x.extent(1);
  const Index channels = a.x.extent(2);
  require_extents(op, "B", a.B, {channels, dyn});
  const Index taps = a.B.extent(1);
  require_extents(op, "C", a.C, {channels, taps});
  require_extents_if_given(op, "skip", a.skip, {channels});
  require_segments(op, a.segments, batch, length);
  const Index sequences = sequence_count(batch, a.segments);
  require_extents_if_given(op, "initial_state", a.initial_state, {sequences, channels, taps});
  require_extents_if_given(op, "final_state", a.final_state, {sequences, channels, taps});
}
}  // namespace detail

/// Computes ShiftConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasShiftConvolution<B, T>
void shift_convolution(Context<B>& ctx, const ShiftConvolution<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("shift_convolution", "y", a.y, a.x.extents().to_array());
  B::shift_convolution(ctx, a);
}

/// Computes ShiftConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasShiftConvolution<B, T>
void shift_convolution_backward(Context<B>& ctx,
                                const ShiftConvolutionBackward<T, typename B::Space>& g) {
  const char* op = "shift_convolution_backward";
  detail::require_operands(g.forward);
  const auto shape = g.forward.x.extents().to_array();
  const auto kernel = g.forward.B.extents().to_array();
  const std::array<Index, 3> states{sequence_count(shape[0], g.forward.segments), shape[2],
                                    kernel[1]};
  require_extents(op, "dy", g.dy, shape);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, states);
  require_extents_if_given(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, states);
  require_extents_if_given(op, "dB", g.dB, kernel);
  require_extents_if_given(op, "dC", g.dC, kernel);
  require_extents_if_given(op, "dskip", g.dskip, {kernel[0]});
  B::shift_convolution_backward(ctx, g);
}

}  // namespace ssm
