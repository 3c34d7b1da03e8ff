// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct SelectiveScanBackward;

/// A state-space model per channel whose step, input and output follow the sequence (Mamba's S6).
///   Δ = dt + dt_bias                        then ln(1 + e^Δ) where `dt_softplus` is set
///   state_t[n] = exp(Δ_t·A[d,n]) · state_{t−1}[n] + Δ_t · B[b,t,n] · u[b,t,d]
///   y[b,t,d]   = (Σ_n C[b,t,n]·state_t[n] + skip[d]·u[b,t,d]) · silu(gate[b,t,d])
/// u, dt           [B, L, D]
/// A               [D, N]
/// B, C            [B, L, N]     shared by the channels
/// skip            [D]           optional
/// dt_bias         [D]           optional
/// gate            [B, L, D]     optional
/// segments                      optional: B = 1, each segment is a sequence with a row of state
/// initial_state   [S, D, N]     optional, zero if left out; S sequences
/// final_state     [S, D, N]     optional, overwritten; may be the same memory as initial_state
/// dt_used         [B, L, D]     optional, overwritten: Δ as it was used
/// y               [B, L, D]     overwritten; must not alias the inputs
/// Cost    O(B·L·D·N), with one exponential a state and position; O(D·N) of workspace
/// Throws  ShapeError  if B, L, D or N disagree
/// Source  Gu and Dao 2023 (Mamba) §3.2 and Algorithm 2; state-spaces/mamba, selective_scan_ref
template <class T, class Space>
struct SelectiveScan {
  View<const T, 3, Space> u{};
  View<const T, 3, Space> dt{};
  View<const Wide<T>, 2, Space> A{};
  View<const T, 3, Space> B{};
  View<const T, 3, Space> C{};
  View<const Wide<T>, 1, Space> skip{};
  View<const Wide<T>, 1, Space> dt_bias{};
  View<const T, 3, Space> gate{};
  bool dt_softplus = false;
  Segments segments{};
  View<const Wide<T>, 3, Space> initial_state{};
  View<Wide<T>, 3, Space> final_state{};
  View<T, 3, Space> dt_used{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "selective_scan";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = SelectiveScanBackward<T, Space>;
    visit(input("u", "BLD"), &SelectiveScan::u, &Gradient::du);
    visit(input("dt", "BLD"), &SelectiveScan::dt, &Gradient::ddt);
    visit(parameter("A", "DN"), &SelectiveScan::A, &Gradient::dA);
    visit(input("B", "BLN"), &SelectiveScan::B, &Gradient::dB);
    visit(input("C", "BLN"), &SelectiveScan::C, &Gradient::dC);
    visit(parameter("skip", "D").optional(), &SelectiveScan::skip, &Gradient::dskip);
    visit(parameter("dt_bias", "D").optional(), &SelectiveScan::dt_bias, &Gradient::ddt_bias);
    visit(input("gate", "BLD").optional(), &SelectiveScan::gate, &Gradient::dgate);
    visit(ssm::initial_state("initial_state", "SDN"), &SelectiveScan::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SDN"), &SelectiveScan::final_state,
          &Gradient::dfinal_state);
    visit(output("dt_used", "BLD").optional(), &SelectiveScan::dt_used, &Gradient::ddt_used);
    visit(output("y", "BLD"), &SelectiveScan::y, &Gradient::dy);
  }
};

/// The vector–Jacobian product of SelectiveScan. Gradients of u, dt, B, C, the gate and the initial
/// state are overwritten, or added to where `accumulate` is set; gradients of A, skip and dt_bias
/// are added to. Each may be left out. States are computed again from a few that are kept: no [B,
/// L, D, N] array is formed.
template <class T, class Space>
struct SelectiveScanBackward {
  SelectiveScan<T, Space> forward{};  // y, dt_used and final_state are not read
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 3, Space> dfinal_state{};  // optional, zero if left out
  View<const T, 3, Space> ddt_used{};            // optional, zero if left out
  bool accumulate = false;
  View<T, 3, Space> du{};
  View<T, 3, Space> ddt{};
  View<Wide<T>, 2, Space> dA{};
  View<T, 3, Space> dB{};
  View<T, 3, Space> dC{};
  View<Wide<T>, 1, Space> dskip{};
  View<Wide<T>, 1, Space> ddt_bias{};
  View<T, 3, Space> dgate{};
  View<Wide<T>, 3, Space> dinitial_state{};
};

/// Backends that have the primitive SelectiveScan.
template <class B, class T = float>
concept HasSelectiveScan = requires(Context<B>& ctx,
                                    const SelectiveScan<Wide<T>, typename B::Space>& a,
                                    const SelectiveScanBackward<Wide<T>, typename B::Space>& g) {
  B::selective_scan(ctx, a);
  B::selective_scan_backward(ctx, g);
};

/// Computes SelectiveScan, whose docstring says the rest.
template <class B, class T>
  requires HasSelectiveScan<B, T>
void selective_scan(Context<B>& ctx, const SelectiveScan<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::selective_scan(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::selective_scan(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { selective_scan(ctx, wide); });
  }
}

/// Computes SelectiveScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasSelectiveScan<B, T>
void selective_scan_backward(Context<B>& ctx,
                             const SelectiveScanBackward<T, typename B::Space>& g) {
  require_gradients<SelectiveScan<T, typename B::Space>>(g);
  if constexpr (requires { B::selective_scan_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::selective_scan_backward(ctx, g);
  } else {
    detail::run_wide_gradient<SelectiveScan>(
        ctx, g, [&](const auto& wide) { selective_scan_backward(ctx, wide); });
  }
}

}  // namespace ssm
