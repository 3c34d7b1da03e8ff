// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <limits>
#include <string>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct SsdScanBackward;

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
/// segments                      optional: batch of one, each segment is a sequence with a row of
///                               state
/// initial_state   [S, H, P, N]  optional, zero if left out; S sequences
/// final_state     [S, H, P, N]  optional, overwritten; may be the same memory as initial_state
/// y               [B, L, H, P]  overwritten; must not alias the inputs
/// Cost    4·B·L·H·N·P operations, no L×L matrix in memory
/// Throws  ShapeError  if B, L, H, P or N disagree or G does not divide H; ArgumentError  for
///         limits that no step meets
/// Source  Dao and Gu 2024 (Mamba-2) §6; state-spaces/mamba, ssd_minimal_discrete
template <class T, class Space>
struct SsdScan {
  View<const T, 4, Space> x{};
  View<const T, 3, Space> dt{};
  View<const Wide<T>, 1, Space> A{};
  View<const T, 4, Space> B{};
  View<const T, 4, Space> C{};
  View<const Wide<T>, 1, Space> skip{};
  View<const Wide<T>, 1, Space> dt_bias{};
  bool dt_softplus = false;
  double dt_min = -std::numeric_limits<double>::infinity();
  double dt_max = std::numeric_limits<double>::infinity();
  Segments segments{};
  View<const Wide<T>, 4, Space> initial_state{};
  View<Wide<T>, 4, Space> final_state{};
  View<T, 4, Space> y{};

  static constexpr const char* name = "ssd_scan";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = SsdScanBackward<T, Space>;
    visit(input("x", "BLHP"), &SsdScan::x, &Gradient::dx);
    visit(input("dt", "BLH"), &SsdScan::dt, &Gradient::ddt);
    visit(parameter("A", "H"), &SsdScan::A, &Gradient::dA);
    visit(input("B", "BLGN"), &SsdScan::B, &Gradient::dB);
    visit(input("C", "BLGN"), &SsdScan::C, &Gradient::dC);
    visit(parameter("skip", "H").optional(), &SsdScan::skip, &Gradient::dskip);
    visit(parameter("dt_bias", "H").optional(), &SsdScan::dt_bias, &Gradient::ddt_bias);
    visit(ssm::initial_state("initial_state", "SHPN"), &SsdScan::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SHPN"), &SsdScan::final_state, &Gradient::dfinal_state);
    visit(output("y", "BLHP"), &SsdScan::y, &Gradient::dy);
  }
  void fix_extents(ExtentsByLetter& n) const {
    const Index heads = x.extent(2), groups = B.extent(2);
    if (x && B && (groups == 0 || heads % groups != 0))
      n.refuse("B",
               message({"has ", groups, " groups, which do not divide the ", heads, " heads"}));
  }
  void require_rest(const ExtentsByLetter&) const {
    if (!(dt_min <= dt_max)) throw ArgumentError("ssd_scan: dt_min is greater than dt_max");
  }
};

/// The vector–Jacobian product of SsdScan. Gradients of x, dt, B, C and the initial state are
/// overwritten; gradients of A, skip and dt_bias are added to. Each may be left out. A step that
/// was clamped has no gradient.
template <class T, class Space>
struct SsdScanBackward {
  SsdScan<T, Space> forward{};  // y and final_state are not read
  View<const T, 4, Space> dy{};
  View<const Wide<T>, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 4, Space> dx{};
  View<T, 3, Space> ddt{};
  View<Wide<T>, 1, Space> dA{};
  View<T, 4, Space> dB{};
  View<T, 4, Space> dC{};
  View<Wide<T>, 1, Space> dskip{};
  View<Wide<T>, 1, Space> ddt_bias{};
  View<Wide<T>, 4, Space> dinitial_state{};
};

/// Backends that have the primitive SsdScan.
template <class B, class T = float>
concept HasSsdScan = requires(Context<B>& ctx, const SsdScan<Wide<T>, typename B::Space>& a,
                              const SsdScanBackward<Wide<T>, typename B::Space>& g) {
  B::ssd_scan(ctx, a);
  B::ssd_scan_backward(ctx, g);
};

/// Computes SsdScan, whose docstring says the rest.
template <class B, class T>
  requires HasSsdScan<B, T>
void ssd_scan(Context<B>& ctx, const SsdScan<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::ssd_scan(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::ssd_scan(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { ssd_scan(ctx, wide); });
  }
}

/// Computes SsdScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasSsdScan<B, T>
void ssd_scan_backward(Context<B>& ctx, const SsdScanBackward<T, typename B::Space>& g) {
  require_gradients<SsdScan<T, typename B::Space>>(g);
  if constexpr (requires { B::ssd_scan_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::ssd_scan_backward(ctx, g);
  } else {
    detail::run_wide_gradient<SsdScan>(ctx, g,
                                       [&](const auto& wide) { ssd_scan_backward(ctx, wide); });
  }
}

}  // namespace ssm
