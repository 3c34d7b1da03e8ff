// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/discretization.hpp"

namespace ssm {

/// The heart of H3 between its projections: shift → outer product with v → diagonal
/// SSM → contraction with q.
///   k̃           = shift(k)                  ShiftConvolution per channel, D channels
///   kv[i,j,h]   = k̃[h·hd+i] · v[h·hd+j]     channel c = h·hd + sub-channel, h the slow index
///   s[i,j,h]    = diagonal(kv[i,j,h])       DiagonalScan, one SSM per head h, with its skip
///   y[h·hd+j]   = Σ_i q[h·hd+i] · s[i,j,h]
/// q, k, v            [B, L, D]
/// shift_B, shift_C   [D, N]
/// shift_skip         [D]
/// dt, skip           [H]                  H = D / hd heads; hd = D / H
/// A, B, C            [H, P, 1|2]
/// shift states       [S, D, N]            initial optional (zero); final optional, may be the same
///                                         memory
/// diagonal states    [S, hd, hd, H, P, 1|2]   axes sequence, i, j, h, mode, number
/// y                  [B, L, D]            overwritten; must not alias the inputs
/// Cost    O(B·L·D·(N + hd·P)), O(B·L·D·hd) of workspace
/// Throws  ShapeError
/// Source  Fu et al. 2023 (H3) §3.2 and Algorithm 1; order of channels as in the CUDA kernel of
///         HazyResearch/H3
template <class T, class Space>
struct H3Mixer {
  View<const T, 3, Space> q{};
  View<const T, 3, Space> k{};
  View<const T, 3, Space> v{};
  View<const T, 2, Space> shift_B{};
  View<const T, 2, Space> shift_C{};
  View<const T, 1, Space> shift_skip{};
  View<const T, 1, Space> dt{};
  View<const T, 3, Space> A{};
  View<const T, 3, Space> B{};
  View<const T, 3, Space> C{};
  View<const T, 1, Space> skip{};
  Discretization discretization = Discretization::bilinear;
  Segments segments{};
  View<const T, 3, Space> initial_shift{};
  View<T, 3, Space> final_shift{};
  View<const T, 6, Space> initial_diagonal{};
  View<T, 6, Space> final_diagonal{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of H3Mixer. Gradients of q, k, v and the initial states are
/// overwritten, gradients of the parameters are added to.
template <class T, class Space>
struct H3MixerBackward {
  H3Mixer<T, Space> forward;  // y and the final states are not read
  View<const T, 3, Space> dy{};
  View<const T, 3, Space> dfinal_shift{};     // optional, zero if left out
  View<const T, 6, Space> dfinal_diagonal{};  // optional, zero if left out
  View<T, 3, Space> dq{};
  View<T, 3, Space> dk{};
  View<T, 3, Space> dv{};
  View<T, 3, Space> dinitial_shift{};     // optional
  View<T, 6, Space> dinitial_diagonal{};  // optional
  View<T, 2, Space> dshift_B{};
  View<T, 2, Space> dshift_C{};
  View<T, 1, Space> dshift_skip{};
  View<T, 1, Space> ddt{};
  View<T, 3, Space> dA{};
  View<T, 3, Space> dB{};
  View<T, 3, Space> dC{};
  View<T, 1, Space> dskip{};
};

/// Backends that have the primitive H3Mixer.
template <class B, class T = float>
concept HasH3Mixer = requires(Context<B>& ctx, const H3Mixer<T, typename B::Space>& a,
                              const H3MixerBackward<T, typename B::Space>& g) {
  B::h3_mixer(ctx, a);
  B::h3_mixer_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const H3Mixer<T, Space>& a) {
  const char* op = "h3_mixer";
  require_extents(op, "q", a.q, {dyn, dyn, dyn});
  const auto shape = a.q.extents().to_array();
  const Index channels = shape[2];
  require_extents(op, "k", a.k, shape);
  require_extents(op, "v", a.v, shape);
  require_extents(op, "shift_B", a.shift_B, {channels, dyn});
  const Index taps = a.shift_B.extent(1);
  require_extents(op, "shift_C", a.shift_C, {channels, taps});
  require_extents(op, "shift_skip", a.shift_skip, {channels});
  require_extents(op, "dt", a.dt, {dyn});
  const Index heads = a.dt.extent(0);
  if (heads == 0 || channels % heads != 0)
    throw ShapeError(op, "dt",
                     "has " + std::to_string(heads) + " heads, which do not divide the " +
                         std::to_string(channels) + " channels");
  require_extents(op, "A", a.A, {heads, dyn, dyn});
  const auto coefficients = a.A.extents().to_array();
  require_extents(op, "B", a.B, coefficients);
  require_extents(op, "C", a.C, coefficients);
  require_extents(op, "skip", a.skip, {heads});
  require_segments(op, a.segments, shape[0], shape[1]);
  const Index sequences = sequence_count(shape[0], a.segments);
  const Index width = channels / heads;
  const std::array<Index, 3> shift{sequences, channels, taps};
  const std::array<Index, 6> diagonal{sequences, width,           width,
                                      heads,     coefficients[1], coefficients[2]};
  require_extents_if_given(op, "initial_shift", a.initial_shift, shift);
  require_extents_if_given(op, "final_shift", a.final_shift, shift);
  require_extents_if_given(op, "initial_diagonal", a.initial_diagonal, diagonal);
  require_extents_if_given(op, "final_diagonal", a.final_diagonal, diagonal);
}
}  // namespace detail

/// Computes H3Mixer, whose docstring says the rest.
template <class B, class T>
  requires HasH3Mixer<B, T>
void h3_mixer(Context<B>& ctx, const H3Mixer<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("h3_mixer", "y", a.y, a.q.extents().to_array());
  B::h3_mixer(ctx, a);
}

/// Computes H3MixerBackward, whose docstring says the rest.
template <class B, class T>
  requires HasH3Mixer<B, T>
void h3_mixer_backward(Context<B>& ctx, const H3MixerBackward<T, typename B::Space>& g) {
  const char* op = "h3_mixer_backward";
  const auto& a = g.forward;
  detail::require_operands(a);
  const auto shape = a.q.extents().to_array();
  require_extents(op, "dq", g.dq, shape);
  require_extents(op, "dk", g.dk, shape);
  require_extents(op, "dv", g.dv, shape);
  require_extents(op, "dy", g.dy, shape);
  const Index sequences = sequence_count(shape[0], a.segments);
  const Index heads = a.dt.extent(0);
  const Index width = shape[2] / heads;
  const std::array<Index, 3> shift{sequences, shape[2], a.shift_B.extent(1)};
  const std::array<Index, 6> diagonal{sequences, width, width, heads, a.A.extent(1), a.A.extent(2)};
  require_extents_if_given(op, "dfinal_shift", g.dfinal_shift, shift);
  require_extents_if_given(op, "dfinal_diagonal", g.dfinal_diagonal, diagonal);
  require_extents_if_given(op, "dinitial_shift", g.dinitial_shift, shift);
  require_extents_if_given(op, "dinitial_diagonal", g.dinitial_diagonal, diagonal);
  require_extents(op, "dshift_B", g.dshift_B, a.shift_B.extents().to_array());
  require_extents(op, "dshift_C", g.dshift_C, a.shift_C.extents().to_array());
  require_extents(op, "dshift_skip", g.dshift_skip, {shape[2]});
  require_extents(op, "ddt", g.ddt, {heads});
  require_extents(op, "dA", g.dA, a.A.extents().to_array());
  require_extents(op, "dB", g.dB, a.A.extents().to_array());
  require_extents(op, "dC", g.dC, a.A.extents().to_array());
  require_extents(op, "dskip", g.dskip, {heads});
  B::h3_mixer_backward(ctx, g);
}

}  // namespace ssm
