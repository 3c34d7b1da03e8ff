// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct CascadedScanBackward;

/// What the states of a selective scan follow from, or the gradients of that.
///   state_t[n] = exp(dt_t·A[d,n]) · state_{t−1}[n] + dt_t · B[b,t,n] · u[b,t,d]
template <class T, class Space>
struct ScanInputs {
  View<T, 3, Space> u{};                    // [B, L, D]
  View<T, 3, Space> dt{};                   // [B, L, D]   as it is used, after bias and softplus
  View<T, 3, Space> B{};                    // [B, L, N]
  View<Wide<T>, 2, Space> A{};              // [D, N]
  View<Wide<T>, 3, Space> initial_state{};  // [S, D, N]   optional, zero if left out
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
  View<const Wide<T>, 2, Space> A{};
  View<const T, 3, Space> C{};
  Segments segments{};
  View<const Wide<T>, 3, Space> initial_state{};
  View<Wide<T>, 3, Space> final_state{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "cascaded_scan";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = CascadedScanBackward<T, Space>;
    visit(input("dt", "BLD"), &CascadedScan::dt, &Gradient::ddt);
    visit(parameter("A", "DN"), &CascadedScan::A, &Gradient::dA);
    visit(input("C", "BLN"), &CascadedScan::C, &Gradient::dC);
    visit(input("gate", "BLD").optional(), &CascadedScan::gate, &Gradient::dgate);
    visit(ssm::initial_state("initial_state", "SDN"), &CascadedScan::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SDN"), &CascadedScan::final_state,
          &Gradient::dfinal_state);
    visit(output("y", "BLD"), &CascadedScan::y, &Gradient::dy);
  }
  void fix_extents(ExtentsByLetter& n) const {
    if (sources.size() > max_sources)
      throw ArgumentError(message({"cascaded_scan: ", sources.size(), " sources, 8 at most"}));
    if (dt && !gate && !sources.empty()) n.refuse("gate", "is missing");
  }
  void require_rest(ExtentsByLetter& n) const {
    for (const auto& source : sources) {
      n.require(input("source u", "BLD"), source.u);
      n.require(input("source dt", "BLD"), source.dt);
      n.require(input("source B", "BLN"), source.B);
      n.require(parameter("source A", "DN"), source.A);
      n.require(ssm::initial_state("source initial_state", "SDN"), source.initial_state);
    }
  }
};

/// The vector–Jacobian product of CascadedScan. Gradients of the gate, dt, C and the initial state
/// are overwritten, those of A and of the sources are added to. Each may be left out, and so may
/// any of a source's.
template <class T, class Space>
struct CascadedScanBackward {
  CascadedScan<T, Space> forward{};  // y and final_state are not read
  View<const T, 3, Space> dy{};
  View<const Wide<T>, 3, Space> dfinal_state{};  // optional, zero if left out
  std::span<const ScanInputs<T, Space>> dsources{};
  View<T, 3, Space> dgate{};
  View<T, 3, Space> ddt{};
  View<Wide<T>, 2, Space> dA{};
  View<T, 3, Space> dC{};
  View<Wide<T>, 3, Space> dinitial_state{};

  void require_rest(ExtentsByLetter& n) const {
    if (!dsources.empty() && dsources.size() != forward.sources.size())
      throw ArgumentError(message({"cascaded_scan_backward: gradients of ", dsources.size(),
                                   " sources out of ", forward.sources.size()}));
    for (const auto& source : dsources) {
      n.require(input("source du", "BLD").optional(), source.u);
      n.require(input("source ddt", "BLD").optional(), source.dt);
      n.require(input("source dB", "BLN").optional(), source.B);
      n.require(parameter("source dA", "DN").optional(), source.A);
      n.require(input("source dinitial_state", "SDN").optional(), source.initial_state);
    }
  }
};

namespace detail {
/// Sources in a half type, or their gradients, as copies in float.
template <class T, class Space>
class WideSources {
  using Source = ScanInputs<Wide<T>, Space>;

 public:
  template <class Copies>
  WideSources(Copies& copies, std::span<const ScanInputs<T, Space>> sources, bool is_written)
      : count_(sources.size()) {
    for (std::size_t i = 0; i < count_; ++i) {
      wide_[i] = std::bit_cast<Source>(sources[i]);
      for (auto* sequence : {&wide_[i].u, &wide_[i].dt, &wide_[i].B})
        copies.widen(*sequence, true, is_written);
    }
  }
  std::span<const Source> all() const { return {wide_.data(), count_}; }

 private:
  std::array<Source, CascadedScan<T, Space>::max_sources> wide_;
  std::size_t count_;
};
}  // namespace detail

/// Backends that have the primitive CascadedScan.
template <class B, class T = float>
concept HasCascadedScan = requires(Context<B>& ctx,
                                   const CascadedScan<Wide<T>, typename B::Space>& a,
                                   const CascadedScanBackward<Wide<T>, typename B::Space>& g) {
  B::cascaded_scan(ctx, a);
  B::cascaded_scan_backward(ctx, g);
};

/// Computes CascadedScan, whose docstring says the rest.
template <class B, class T>
  requires HasCascadedScan<B, T>
void cascaded_scan(Context<B>& ctx, const CascadedScan<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::cascaded_scan(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::cascaded_scan(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](auto& wide, auto& copies) {
      const detail::WideSources<T, typename B::Space> sources(copies, a.sources, false);
      wide.sources = sources.all();
      cascaded_scan(ctx, wide);
    });
  }
}

/// Computes CascadedScanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasCascadedScan<B, T>
void cascaded_scan_backward(Context<B>& ctx, const CascadedScanBackward<T, typename B::Space>& g) {
  require_gradients<CascadedScan<T, typename B::Space>>(g);
  if constexpr (requires { B::cascaded_scan_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::cascaded_scan_backward(ctx, g);
  } else {
    detail::run_wide_gradient<CascadedScan>(ctx, g, [&](auto& wide, auto& copies) {
      const detail::WideSources<T, typename B::Space> sources(copies, g.forward.sources, false);
      const detail::WideSources<T, typename B::Space> dsources(copies, g.dsources, true);
      wide.forward.sources = sources.all();
      wide.dsources = dsources.all();
      cascaded_scan_backward(ctx, wide);
    });
  }
}

}  // namespace ssm
