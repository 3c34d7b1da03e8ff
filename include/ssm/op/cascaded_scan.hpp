// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// What the states of a selective scan follow from, or the gradients of that.
///   state_t[n] = exp(dt_t·A[d,n]) · state_{t−1}[n] + dt_t · B[b,t,n] · u[b,t,d]
template <class T, class Space>
struct ScanInputs {
  View<T, 3, Space> u{};              // [B, L, D]
  View<T, 3, Space> dt{};             // [B, L, D]   as it is used, after bias and softplus
  View<T, 3, Space> B{};              // [B, L, N]
  View<T, 2, Space> A{};              // [D, N]
  View<T, 3, Space> initial_state{};  // [S, D, N]   optional, zero if left out
};

/// Scans in a cascade: the input of the last is the sum of the states of the others, times a gate
/// for every channel.
///   state_t[n] = exp(dt_t·A[d,n]) · state_{t−1}[n] + gate[b,t,d] · Σ_i source^i_t[n]
///   y[b,t,d]   = Σ_n C[b,t,n]·state_t[n]
/// sources                       at most 8; their states are computed again, none is stored
/// gate            [B, L, D]     may be left out without sources
/// dt              [B, L, D]     as it is used
/// A               [D, N]
/// C               [B, L, N]
/// segments                      optional: B = 1, each segment is a sequence with a row of state
/// initial_state   [S, D, N]     optional, zero if left out; S sequences
/// final_state     [S, D, N]     optional, overwritten; may be the same memory as initial_state
/// y               [B, L, D]     overwritten; must not alias the inputs
/// Cost    O((m + 1)·B·L·D·N) for m sources, with one exponential a state, position and scan;
///         O(m·D·N) of workspace
/// Throws  ShapeError  if B, L, D or N disagree; ArgumentError  for more than 8 sources
/// Source  He et al. 2024 (DenseSSM) §3.2, the autoregressive form: the fused state is what is
///         carried on
template <class T, class Space>
struct CascadedScan {
  static constexpr std::size_t max_sources = 8;

  std::span<const ScanInputs<T, Space>> sources{};
  View<const T, 3, Space> gate{};
  View<const T, 3, Space> dt{};
  View<const T, 2, Space> A{};
  View<const T, 3, Space> C{};
  Segments segments{};
  View<const T, 3, Space> initial_state{};
  View<T, 3, Space> final_state{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of CascadedScan. Gradients of the gate, dt, C and the initial state
/// are overwritten, those of A and of the sources are added to. Each may be left out, and so may
/// any of a source's.
template <class T, class Space>
struct CascadedScanBackward {
  CascadedScan<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const T, 3, Space> dfinal_state{};  // optional, zero if left out
  std::span<const ScanInputs<T, Space>> dsources{};
  View<T, 3, Space> dgate{};
  View<T, 3, Space> ddt{};
  View<T, 2, Space> dA{};
  View<T, 3, Space> dC{};
  View<T, 3, Space> dinitial_state{};
};

/// Backends that have the primitive CascadedScan.
template <class B, class T = float>
concept HasCascadedScan = requires(Context<B>& ctx, const CascadedScan<T, typename B::Space>& a,
                                   const CascadedScanBackward<T, typename B::Space>& g) {
  B::cascaded_scan(ctx, a);
  B::cascaded_scan_backward(ctx, g);
};

namespace detail {
/// The extents of a call: of a sequence of channels, of one of states, of A, and of a state.
struct CascadedExtents {
  std::array<Index, 3> channels, states;
  std::array<Index, 2> rates;
  std::array<Index, 3> state;
};

template <class T, class Space>
CascadedExtents require_operands(const CascadedScan<T, Space>& a) {
  const char* op = "cascaded_scan";
  if (a.sources.size() > CascadedScan<T, Space>::max_sources)
    throw ArgumentError("cascaded_scan: " + std::to_string(a.sources.size()) +
                        " sources, 8 at most");
  require_extents(op, "dt", a.dt, {dyn, dyn, dyn});
  const auto n = a.dt.extents().to_array();
  require_extents(op, "A", a.A, {n[2], dyn});
  require_segments(op, a.segments, n[0], n[1]);
  const Index states = a.A.extent(1);
  const CascadedExtents shape{.channels = n,
                              .states = {n[0], n[1], states},
                              .rates = {n[2], states},
                              .state = {sequence_count(n[0], a.segments), n[2], states}};
  require_extents(op, "C", a.C, shape.states);
  if (a.sources.empty())
    require_extents_if_given(op, "gate", a.gate, n);
  else
    require_extents(op, "gate", a.gate, n);
  for (const auto& source : a.sources) {
    require_extents(op, "source u", source.u, n);
    require_extents(op, "source dt", source.dt, n);
    require_extents(op, "source B", source.B, shape.states);
    require_extents(op, "source A", source.A, shape.rates);
    require_extents_if_given(op, "source initial_state", source.initial_state, shape.state);
  }
  require_extents_if_given(op, "initial_state", a.initial_state, shape.state);
  require_extents_if_given(op, "final_state", a.final_state, shape.state);
  return shape;
}
}  // namespace detail

/// Computes CascadedScan, whose docstring says the rest.
template <class B, class T>
  requires HasCascadedScan<B, T>
void cascaded_scan(Context<B>& ctx, const CascadedScan<T, typename B::Space>& a) {
  const auto shape = detail::require_operands(a);
  require_extents("cascaded_scan", "y", a.y, shape.channels);
  B::cascaded_scan(ctx, a);
}

/// Computes CascadedScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasCascadedScan<B, T>
void cascaded_scan_backward(Context<B>& ctx, const CascadedScanBackward<T, typename B::Space>& g) {
  const char* op = "cascaded_scan_backward";
  const auto shape = detail::require_operands(g.forward);
  require_extents(op, "dy", g.dy, shape.channels);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, shape.state);
  if (!g.dsources.empty() && g.dsources.size() != g.forward.sources.size())
    throw ArgumentError("cascaded_scan_backward: gradients of " +
                        std::to_string(g.dsources.size()) + " sources out of " +
                        std::to_string(g.forward.sources.size()));
  for (const auto& source : g.dsources) {
    require_extents_if_given(op, "source du", source.u, shape.channels);
    require_extents_if_given(op, "source ddt", source.dt, shape.channels);
    require_extents_if_given(op, "source dB", source.B, shape.states);
    require_extents_if_given(op, "source dA", source.A, shape.rates);
    require_extents_if_given(op, "source dinitial_state", source.initial_state, shape.state);
  }
  require_extents_if_given(op, "dgate", g.dgate, shape.channels);
  if (g.dgate && !g.forward.gate) throw ShapeError(op, "dgate", "is given, but the gate is not");
  require_extents_if_given(op, "ddt", g.ddt, shape.channels);
  require_extents_if_given(op, "dA", g.dA, shape.rates);
  require_extents_if_given(op, "dC", g.dC, shape.states);
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, shape.state);
  B::cascaded_scan_backward(ctx, g);
}

}  // namespace ssm
