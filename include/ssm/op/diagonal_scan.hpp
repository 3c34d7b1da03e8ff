// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/discretization.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct DiagonalScanBackward;

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
/// kept                [K]             optional, overwritten, K = kept_numbers(ctx, a): states on
///                                     the way, from which the gradient goes on instead of making
///                                     all again
/// Cost    O(B·L·D·P), O(R·P) of workspace
/// Throws  ShapeError  if B, L, D, P disagree or R does not divide D
/// Source  Gu et al. 2022 (S4D) §3; Fu et al. 2023 (H3) §3.1 and Algorithm 2
template <class T, class Space>
struct DiagonalScan {
  View<const Wide<T>, 1, Space> dt{};
  View<const Wide<T>, 3, Space> A{};
  View<const Wide<T>, 3, Space> B{};
  View<const Wide<T>, 3, Space> C{};
  View<const Wide<T>, 1, Space> skip{};
  Discretization discretization = Discretization::bilinear;
  View<const T, 3, Space> x{};
  View<const T, 3, Space> gate_in{};
  View<const T, 3, Space> gate_out{};
  Segments segments{};
  View<const Wide<T>, 4, Space> initial_state{};
  View<Wide<T>, 4, Space> final_state{};
  View<T, 3, Space> y{};
  View<Wide<T>, 1, Space> kept{};  // of the backend alone

  static constexpr const char* name = "diagonal_scan";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = DiagonalScanBackward<T, Space>;
    visit(input("x", "BLD"), &DiagonalScan::x, &Gradient::dx);
    visit(parameter("dt", "R"), &DiagonalScan::dt, &Gradient::ddt);
    visit(parameter("A", "RPZ"), &DiagonalScan::A, &Gradient::dA);
    visit(parameter("B", "RPZ"), &DiagonalScan::B, &Gradient::dB);
    visit(parameter("C", "RPZ"), &DiagonalScan::C, &Gradient::dC);
    visit(parameter("skip", "R").optional(), &DiagonalScan::skip, &Gradient::dskip);
    visit(input("gate_in", "BLD").optional(), &DiagonalScan::gate_in, &Gradient::dgate_in);
    visit(input("gate_out", "BLD").optional(), &DiagonalScan::gate_out, &Gradient::dgate_out);
    visit(ssm::initial_state("initial_state", "SDPZ"), &DiagonalScan::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SDPZ"), &DiagonalScan::final_state,
          &Gradient::dfinal_state);
    visit(output("y", "BLD"), &DiagonalScan::y, &Gradient::dy);
  }
  void fix_extents(ExtentsByLetter& n) const {
    const Index rows = dt.extent(0), channels = x.extent(2), parts = A.extent(2);
    if (x && dt && (rows == 0 || channels % rows != 0))
      n.refuse("dt",
               message({"has ", rows, " rows, which do not divide the ", channels, " channels"}));
    if (A && parts != 1 && parts != 2)
      n.refuse("A", message({"must have 1 or 2 scalars a number, got ", parts}));
  }
};

/// The vector–Jacobian product of DiagonalScan. Gradients of inputs and of the initial state are
/// overwritten and may be left out; gradients of dt, A, B, C, skip are added to and may be left
/// out. A complex gradient is (∂/∂Re, ∂/∂Im).
template <class T, class Space>
struct DiagonalScanBackward {
  DiagonalScan<T, Space> forward{};      // y, final_state and kept are not read
  View<const Wide<T>, 1, Space> kept{};  // optional: what the forward call kept
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<T, 3, Space> dgate_in{};
  View<T, 3, Space> dgate_out{};
  View<Wide<T>, 4, Space> dinitial_state{};
  View<Wide<T>, 1, Space> ddt{};
  View<Wide<T>, 3, Space> dA{};
  View<Wide<T>, 3, Space> dB{};
  View<Wide<T>, 3, Space> dC{};
  View<Wide<T>, 1, Space> dskip{};
};

/// Backends that have the primitive DiagonalScan.
template <class B, class T = float>
concept HasDiagonalScan = requires(Context<B>& ctx,
                                   const DiagonalScan<Wide<T>, typename B::Space>& a,
                                   const DiagonalScanBackward<Wide<T>, typename B::Space>& g) {
  B::diagonal_scan(ctx, a);
  B::diagonal_scan_backward(ctx, g);
};

/// How many numbers of `kept` this call writes: 0 where the backend keeps nothing, and where ranks
/// share sequences. It depends on sizes alone.
template <class B, class T>
Index kept_numbers(Context<B>& ctx, const DiagonalScan<T, typename B::Space>& a) {
  if constexpr (requires { B::kept_numbers(ctx, a); })
    return ctx.sequence_cut() == nullptr ? B::kept_numbers(ctx, a) : 0;
  else
    return 0;
}

namespace detail {
template <class B, class T, class Kept>
void require_kept(Context<B>& ctx, const DiagonalScan<T, typename B::Space>& a, const Kept& kept) {
  if (kept.size() > 0 && kept.size() != kept_numbers(ctx, a))
    throw ShapeError(a.name, "kept",
                     message({"must have ", kept_numbers(ctx, a), " numbers, got ", kept.size()}));
}
}  // namespace detail

/// Computes DiagonalScan, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalScan<B, T>
void diagonal_scan(Context<B>& ctx, const DiagonalScan<T, typename B::Space>& a) {
  require_operands(a);
  detail::require_kept(ctx, a, a.kept);
  if constexpr (requires { B::diagonal_scan(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::diagonal_scan(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { diagonal_scan(ctx, wide); });
  }
}

/// Computes DiagonalScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalScan<B, T>
void diagonal_scan_backward(Context<B>& ctx, const DiagonalScanBackward<T, typename B::Space>& g) {
  require_gradients<DiagonalScan<T, typename B::Space>>(g);
  detail::require_kept(ctx, g.forward, g.kept);
  if constexpr (requires { B::diagonal_scan_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::diagonal_scan_backward(ctx, g);
  } else {
    detail::run_wide_gradient<DiagonalScan>(
        ctx, g, [&](const auto& wide) { diagonal_scan_backward(ctx, wide); });
  }
}

}  // namespace ssm
