// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <limits>
#include <string>

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// A state-space model per head whose step, input and output follow the sequence, with one decay
/// rate a head (Mamba-2's state-space duality).
///   Δ_t = dt_t + dt_bias[h]     then ln(1 + e^Δ) where `dt_softplus` is set, then clamped to
///                               dt_min ≤ Δ ≤ dt_max
///   state_t[p,n] = exp(Δ_t·A[h]) · state_{t−1}[p,n] + Δ_t · x[b,t,h,p] · B[b,t,g,n]
///   y[b,t,h,p]   = Σ_n C[b,t,g,n]·state_t[p,n] + skip[h]·x[b,t,h,p]        g = h div (H/G)
/// x               [B, L, H, P]
/// dt              [B, L, H]
/// A               [H]           negative
/// B, C            [B, L, G, N]  shared by the H/G heads of a group; G divides H
/// skip            [H]           optional
/// dt_bias         [H]           optional
/// chunk                         positions that are multiplied with each other directly, where a
///                               backend does so; 0: the backend chooses
/// segments                      optional: batch of one, each segment is a sequence with a row of
///                               state
/// initial_state   [S, H, P, N]  optional, zero if left out; S sequences
/// final_state     [S, H, P, N]  optional, overwritten; may be the same memory as initial_state
/// y               [B, L, H, P]  overwritten; must not alias the inputs
/// Cost    4·B·L·H·N·P operations, and B·L·H·chunk·(N + P) more by chunks; no L×L matrix in memory
/// Throws  ShapeError  if B, L, H, P or N disagree or G does not divide H; ArgumentError  for
///         limits that no step meets
/// Source  Dao and Gu 2024 (Mamba-2) §6; state-spaces/mamba, ssd_minimal_discrete
template <class T, class Space>
struct SsdScan {
  View<const T, 4, Space> x{};
  View<const T, 3, Space> dt{};
  View<const T, 1, Space> A{};
  View<const T, 4, Space> B{};
  View<const T, 4, Space> C{};
  View<const T, 1, Space> skip{};
  View<const T, 1, Space> dt_bias{};
  bool dt_softplus = false;
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
  Index chunk = 0;
  Segments segments{};
  View<const T, 4, Space> initial_state{};
  View<T, 4, Space> final_state{};
  View<T, 4, Space> y{};
};

/// The vector–Jacobian product of SsdScan. Gradients of x, dt, B, C and the initial state are
/// overwritten; gradients of A, skip and dt_bias are added to. Each may be left out. A step that
/// was clamped has no gradient.
template <class T, class Space>
struct SsdScanBackward {
  SsdScan<T, Space> forward{};  // y and final_state are not read
  View<const T, 4, Space> dy{};
  View<const T, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 4, Space> dx{};
  View<T, 3, Space> ddt{};
  View<T, 1, Space> dA{};
  View<T, 4, Space> dB{};
  View<T, 4, Space> dC{};
  View<T, 1, Space> dskip{};
  View<T, 1, Space> ddt_bias{};
  View<T, 4, Space> dinitial_state{};
};

/// Backends that have the primitive SsdScan.
template <class B, class T = float>
concept HasSsdScan = requires(Context<B>& ctx, const SsdScan<T, typename B::Space>& a,
                              const SsdScanBackward<T, typename B::Space>& g) {
  B::ssd_scan(ctx, a);
  B::ssd_scan_backward(ctx, g);
};

namespace detail {
/// Returns the extents of a state. Throws ShapeError, ArgumentError.
template <class T, class Space>
std::array<Index, 4> require_operands(const SsdScan<T, Space>& a) {
  const char* op = "ssd_scan";
  require_extents(op, "x", a.x, {dyn, dyn, dyn, dyn});
  const auto shape = a.x.extents().to_array();
  require_extents(op, "dt", a.dt, {shape[0], shape[1], shape[2]});
  require_extents(op, "A", a.A, {shape[2]});
  require_extents(op, "B", a.B, {shape[0], shape[1], dyn, dyn});
  const Index groups = a.B.extent(2);
  if (groups == 0 || shape[2] % groups != 0)
    throw ShapeError(op, "B",
                     "has " + std::to_string(groups) + " groups, which do not divide the " +
                         std::to_string(shape[2]) + " heads");
  require_extents(op, "C", a.C, a.B.extents().to_array());
  require_extents_if_given(op, "skip", a.skip, {shape[2]});
  require_extents_if_given(op, "dt_bias", a.dt_bias, {shape[2]});
  if (a.chunk < 0) throw ShapeError(op, "chunk", "is " + std::to_string(a.chunk));
  if (!(a.dt_min <= a.dt_max)) throw ArgumentError("ssd_scan: dt_min is greater than dt_max");
  require_segments(op, a.segments, shape[0], shape[1]);
  const std::array<Index, 4> states{sequence_count(shape[0], a.segments), shape[2], shape[3],
                                    a.B.extent(3)};
  require_extents_if_given(op, "initial_state", a.initial_state, states);
  require_extents_if_given(op, "final_state", a.final_state, states);
  return states;
}
}  // namespace detail

/// Computes SsdScan, whose docstring says the rest.
template <class B, class T>
  requires HasSsdScan<B, T>
void ssd_scan(Context<B>& ctx, const SsdScan<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("ssd_scan", "y", a.y, a.x.extents().to_array());
  B::ssd_scan(ctx, a);
}

/// Computes SsdScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasSsdScan<B, T>
void ssd_scan_backward(Context<B>& ctx, const SsdScanBackward<T, typename B::Space>& g) {
  const char* op = "ssd_scan_backward";
  const auto states = detail::require_operands(g.forward);
  const auto x = g.forward.x.extents().to_array();
  const auto dt = g.forward.dt.extents().to_array();
  const auto shared = g.forward.B.extents().to_array();
  require_extents(op, "dy", g.dy, x);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, states);
  require_extents_if_given(op, "dx", g.dx, x);
  require_extents_if_given(op, "ddt", g.ddt, dt);
  require_extents_if_given(op, "dA", g.dA, {x[2]});
  require_extents_if_given(op, "dB", g.dB, shared);
  require_extents_if_given(op, "dC", g.dC, shared);
  require_extents_if_given(op, "dskip", g.dskip, {x[2]});
  require_extents_if_given(op, "ddt_bias", g.ddt_bias, {x[2]});
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, states);
  B::ssd_scan_backward(ctx, g);
}

}  // namespace ssm
