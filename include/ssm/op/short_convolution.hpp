// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/activation.hpp"  // ActivationKind

namespace ssm {

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
  View<const T, 2, Space> weight{};
  View<const T, 1, Space> bias{};
  ActivationKind activation = ActivationKind::none;
  View<const T, 3, Space> x{};
  Segments segments{};
  View<const T, 3, Space> initial_state{};
  View<T, 3, Space> final_state{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of ShortConvolution. Gradients of x and the initial state are
/// overwritten; gradients of weight and bias are added to. Each may be left out.
template <class T, class Space>
struct ShortConvolutionBackward {
  ShortConvolution<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const T, 3, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<T, 3, Space> dinitial_state{};
  View<T, 2, Space> dweight{};
  View<T, 1, Space> dbias{};
};

/// Backends that have the primitive ShortConvolution.
template <class B, class T = float>
concept HasShortConvolution = requires(Context<B>& ctx,
                                       const ShortConvolution<T, typename B::Space>& a,
                                       const ShortConvolutionBackward<T, typename B::Space>& g) {
  B::short_convolution(ctx, a);
  B::short_convolution_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const ShortConvolution<T, Space>& a) {
  const char* op = "short_convolution";
  require_extents(op, "x", a.x, {dyn, dyn, dyn});
  const Index batch = a.x.extent(0);
  const Index channels = a.x.extent(2);
  require_extents(op, "weight", a.weight, {channels, dyn});
  const Index width = a.weight.extent(1);
  if (width == 0) throw ShapeError(op, "weight", "must have at least one tap");
  require_extents_if_given(op, "bias", a.bias, {channels});
  require_segments(op, a.segments, batch, a.x.extent(1));
  const Index sequences = sequence_count(batch, a.segments);
  require_extents_if_given(op, "initial_state", a.initial_state, {sequences, channels, width});
  require_extents_if_given(op, "final_state", a.final_state, {sequences, channels, width});
  if (a.activation != ActivationKind::none && a.activation != ActivationKind::silu)
    throw ArgumentError("short_convolution: the activation must be none or silu");
}
}  // namespace detail

/// Computes ShortConvolution, whose docstring says the rest.
template <class B, class T>
  requires HasShortConvolution<B, T>
void short_convolution(Context<B>& ctx, const ShortConvolution<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("short_convolution", "y", a.y, a.x.extents().to_array());
  B::short_convolution(ctx, a);
}

/// Computes ShortConvolutionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasShortConvolution<B, T>
void short_convolution_backward(Context<B>& ctx,
                                const ShortConvolutionBackward<T, typename B::Space>& g) {
  const char* op = "short_convolution_backward";
  detail::require_operands(g.forward);
  const auto shape = g.forward.x.extents().to_array();
  const auto taps = g.forward.weight.extents().to_array();
  const std::array<Index, 3> states{sequence_count(shape[0], g.forward.segments), taps[0], taps[1]};
  require_extents(op, "dy", g.dy, shape);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, states);
  require_extents_if_given(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, states);
  require_extents_if_given(op, "dweight", g.dweight, taps);
  require_extents_if_given(op, "dbias", g.dbias, {taps[0]});
  B::short_convolution_backward(ctx, g);
}

}  // namespace ssm
