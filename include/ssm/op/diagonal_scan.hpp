// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/discretization.hpp"

namespace ssm {

/// A diagonal state-space model in (dt, A, B, C) form, run as a recurrence; the length-L kernel is
/// never formed.
///   u = gate_in · x
///   state_t[p] = Ā[r,p] · state_{t−1}[p] + B̄[r,p] · u[b,t,d]      r = d mod R, for every mode p
///   y[b,t,d]   = gate_out[b,t,d] · ( w · Re Σ_p C[r,p] · state_t[p]  +  skip[r] · u[b,t,d] )
/// Ā and B̄ come from dt, A, B by `discretization`. The last axis of A, B, C and the states is a
/// number: 2 scalars (real, imaginary) where one of each conjugate pair is stored, then w = 2; or 1
/// scalar (all real), then w = 1.
/// dt                  [R]             seconds; R divides D: channel d uses row d mod R
/// A, B, C             [R, P, 1|2]
/// skip                [R]             optional
/// x                   [B, L, D]
/// gate_in, gate_out   [B, L, D]       optional
/// segments                            optional: B = 1, each segment is a sequence with a row of
///                                     state
/// initial_state       [S, D, P, 1|2]  optional, zero if left out; S sequences
/// final_state         [S, D, P, 1|2]  optional, overwritten; may be the same memory as
///                                     initial_state
/// y                   [B, L, D]       overwritten; must not alias the inputs
/// Cost    O(B·L·D·P), O(R·P) of workspace
/// Throws  ShapeError  if B, L, D, P disagree or R does not divide D
/// Source  Gu et al. 2022 (S4D) §3; Fu et al. 2023 (H3) §3.1 and Algorithm 2
template <class T, class Space>
struct DiagonalScan {
  View<const T, 1, Space> dt{};
  View<const T, 3, Space> A{};
  View<const T, 3, Space> B{};
  View<const T, 3, Space> C{};
  View<const T, 1, Space> skip{};
  Discretization discretization = Discretization::bilinear;
  View<const T, 3, Space> x{};
  View<const T, 3, Space> gate_in{};
  View<const T, 3, Space> gate_out{};
  Segments segments{};
  View<const T, 4, Space> initial_state{};
  View<T, 4, Space> final_state{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of DiagonalScan. Gradients of inputs and of the initial state are
/// overwritten and may be left out; gradients of dt, A, B, C, skip are added to and may be left
/// out. A complex gradient is (∂/∂Re, ∂/∂Im).
template <class T, class Space>
struct DiagonalScanBackward {
  DiagonalScan<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const T, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<T, 3, Space> dgate_in{};
  View<T, 3, Space> dgate_out{};
  View<T, 4, Space> dinitial_state{};
  View<T, 1, Space> ddt{};
  View<T, 3, Space> dA{};
  View<T, 3, Space> dB{};
  View<T, 3, Space> dC{};
  View<T, 1, Space> dskip{};
};

/// Backends that have the primitive DiagonalScan.
template <class B, class T = float>
concept HasDiagonalScan = requires(Context<B>& ctx, const DiagonalScan<T, typename B::Space>& a,
                                   const DiagonalScanBackward<T, typename B::Space>& g) {
  B::diagonal_scan(ctx, a);
  B::diagonal_scan_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const DiagonalScan<T, Space>& a) {
  const char* op = "diagonal_scan";
  require_extents(op, "x", a.x, {dyn, dyn, dyn});
  const Index batch = a.x.extent(0);
  const Index length = a.x.extent(1);
  const Index channels = a.x.extent(2);
  require_extents(op, "dt", a.dt, {dyn});
  const Index rows = a.dt.extent(0);
  if (rows == 0 || channels % rows != 0)
    throw ShapeError(op, "dt",
                     "has " + std::to_string(rows) + " rows, which do not divide the " +
                         std::to_string(channels) + " channels");
  require_extents(op, "A", a.A, {rows, dyn, dyn});
  const Index modes = a.A.extent(1);
  const Index parts = a.A.extent(2);
  if (parts != 1 && parts != 2)
    throw ShapeError(op, "A", "must have 1 or 2 scalars a number, got " + std::to_string(parts));
  require_extents(op, "B", a.B, {rows, modes, parts});
  require_extents(op, "C", a.C, {rows, modes, parts});
  require_extents_if_given(op, "skip", a.skip, {rows});
  require_extents_if_given(op, "gate_in", a.gate_in, {batch, length, channels});
  require_extents_if_given(op, "gate_out", a.gate_out, {batch, length, channels});
  require_segments(op, a.segments, batch, length);
  const Index sequences = sequence_count(batch, a.segments);
  require_extents_if_given(op, "initial_state", a.initial_state,
                           {sequences, channels, modes, parts});
  require_extents_if_given(op, "final_state", a.final_state, {sequences, channels, modes, parts});
}
}  // namespace detail

/// Computes DiagonalScan, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalScan<B, T>
void diagonal_scan(Context<B>& ctx, const DiagonalScan<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("diagonal_scan", "y", a.y, a.x.extents().to_array());
  B::diagonal_scan(ctx, a);
}

/// Computes DiagonalScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalScan<B, T>
void diagonal_scan_backward(Context<B>& ctx, const DiagonalScanBackward<T, typename B::Space>& g) {
  const char* op = "diagonal_scan_backward";
  detail::require_operands(g.forward);
  const auto shape = g.forward.x.extents().to_array();
  const auto coefficients = g.forward.A.extents().to_array();
  const Index sequences = sequence_count(shape[0], g.forward.segments);
  const std::array<Index, 4> states{sequences, shape[2], coefficients[1], coefficients[2]};
  require_extents(op, "dy", g.dy, shape);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, states);
  require_extents_if_given(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dgate_in", g.dgate_in, shape);
  require_extents_if_given(op, "dgate_out", g.dgate_out, shape);
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, states);
  require_extents_if_given(op, "ddt", g.ddt, {coefficients[0]});
  require_extents_if_given(op, "dA", g.dA, coefficients);
  require_extents_if_given(op, "dB", g.dB, coefficients);
  require_extents_if_given(op, "dC", g.dC, coefficients);
  require_extents_if_given(op, "dskip", g.dskip, {coefficients[0]});
  B::diagonal_scan_backward(ctx, g);
}

}  // namespace ssm
