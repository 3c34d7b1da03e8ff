// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

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
  View<const T, 2, Space> kernel{};
  View<const T, 1, Space> skip{};
  View<const T, 3, Space> x{};
  View<const T, 3, Space> gate_in{};
  View<const T, 3, Space> gate_out{};
  Segments segments{};
  View<T, 3, Space> y{};
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
  View<T, 2, Space> dkernel{};
  View<T, 1, Space> dskip{};
};

/// Backends that have the primitive CausalConvolution.
template <class B, class T = float>
concept HasCausalConvolution = requires(Context<B>& ctx,
                                        const CausalConvolution<T, typename B::Space>& a,
                                        const CausalConvolutionBackward<T, typename B::Space>& g) {
  B::causal_convolution(ctx, a);
  B::causal_convolution_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const CausalConvolution<T, Space>& a) {
  const char* op = "causal_convolution";
  require_extents(op, "x", a.x, {dyn, dyn, dyn});
  const Index batch = a.x.extent(0);
  const Index length = a.x.extent(1);
  const Index channels = a.x.extent(2);
  require_extents(op, "kernel", a.kernel, {channels, dyn});
  require_extents_if_given(op, "skip", a.skip, {channels});
  require_extents_if_given(op, "gate_in", a.gate_in, {batch, length, channels});
  require_extents_if_given(op, "gate_out", a.gate_out, {batch, length, channels});
  require_segments(op, a.segments, batch, length);
}
}  // namespace detail

/// Computes CausalConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasCausalConvolution<B, T>
void causal_convolution(Context<B>& ctx, const CausalConvolution<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("causal_convolution", "y", a.y, a.x.extents().to_array());
  B::causal_convolution(ctx, a);
}

/// Computes CausalConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasCausalConvolution<B, T>
void causal_convolution_backward(Context<B>& ctx,
                                 const CausalConvolutionBackward<T, typename B::Space>& g) {
  const char* op = "causal_convolution_backward";
  detail::require_operands(g.forward);
  const auto shape = g.forward.x.extents().to_array();
  require_extents(op, "dy", g.dy, shape);
  require_extents_if_given(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dgate_in", g.dgate_in, shape);
  require_extents_if_given(op, "dgate_out", g.dgate_out, shape);
  require_extents_if_given(op, "dkernel", g.dkernel, g.forward.kernel.extents().to_array());
  require_extents_if_given(op, "dskip", g.dskip, {shape[2]});
  B::causal_convolution_backward(ctx, g);
}

}  // namespace ssm
