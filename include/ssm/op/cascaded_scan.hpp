// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/across_ranks.hpp"
#include "ssm/op/selective_scan.hpp"
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

namespace detail {
// On sequences that lie across ranks the states of the sources cross with the fused one; a scan of
// each source by itself says what its state at the end is.

/// A source's own scan on this rank; what it would read is not looked at.
template <class T, class Space>
SelectiveScan<T, Space> scan_of_source(const ScanInputs<T, Space>& source, Segments segments) {
  return {.u = source.u,
          .dt = source.dt,
          .A = source.A,
          .B = source.B,
          .C = source.B,
          .segments = segments,
          .initial_state = source.initial_state};
}

inline constexpr Operand fused_state = initial_state("initial_state", "SDN");

/// The sources with states of their own, and the fused one's, from the rank before.
template <class B, class Frame, class T>
[[gnu::cold, gnu::noinline]] void receive_cascade(
    Context<B>& ctx, const SequenceCut& cut, Frame& frame, CascadedScan<T, typename B::Space>& part,
    std::vector<ScanInputs<T, typename B::Space>>& sources, const ExtentsByLetter& n) {
  sources.assign(part.sources.begin(), part.sources.end());
  part.sources = sources;
  if (crossing_count(cut, CutSide::continues, n['S']) == 0) return;
  CrossingTensors states;
  const auto own = own_copy(ctx, frame, part.name, fused_state, part.initial_state, n);
  states.add(own);
  part.initial_state = own;
  for (auto& source : sources) {
    source.initial_state = own_copy(ctx, frame, part.name, fused_state, source.initial_state, n);
    states.add(source.initial_state);
  }
  receive_rows<typename B::Space>(cut, CutSide::continues, n['S'], states.all());
}

/// Runs the call and gives all states at the end to the rank behind.
template <class B, class T, class Run>
[[gnu::cold, gnu::noinline]] void run_and_send_cascade(Context<B>& ctx, const SequenceCut& cut,
                                                       const CascadedScan<T, typename B::Space>& a,
                                                       const ExtentsByLetter& n, Run run) {
  using Space = typename B::Space;
  if (crossing_count(cut, CutSide::goes_on, n['S']) == 0) return run(ctx, a);
  auto frame = ctx.workspace().frame();
  const auto state = [&] { return frame.template tensor<Wide<T>>(n['S'], n['D'], n['N']); };
  CascadedScan<T, Space> part = a;
  CrossingTensors states;
  const View<Wide<T>, 3, Space> fused = state();
  part.final_state = fused;
  states.add(fused);
  run(ctx, part);
  const auto y = frame.template tensor<T>(n['B'], n['L'], n['D']);
  for (const auto& source : a.sources) {
    auto scan = scan_of_source<T, Space>(source, a.segments);
    scan.final_state = state();
    scan.y = y;
    selective_scan(ctx, scan);
    states.add(scan.final_state);
  }
  send_rows<Space>(cut, CutSide::goes_on, n['S'], states.all());
  if (a.final_state) copy_across(ctx, part.name, fused, a.final_state);
}

template <class B, class T, class Run>
[[gnu::cold, gnu::noinline]] void cascade_across(Context<B>& ctx,
                                                 const CascadedScan<T, typename B::Space>& a,
                                                 const ExtentsByLetter& n, Run run) {
  const SequenceCut cut = *ctx.sequence_cut();
  require_parts(cut, a.name, n['S']);
  const CutSequences<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  CascadedScan<T, typename B::Space> part = a;
  std::vector<ScanInputs<T, typename B::Space>> sources;
  receive_cascade(ctx, cut, frame, part, sources, n);
  run_and_send_cascade(ctx, cut, part, n, run);
}

template <class Op, class B, class Gradient, class Forward, class Backward>
[[gnu::cold, gnu::noinline]] void cascade_across_backward(Context<B>& ctx, const Gradient& g,
                                                          const ExtentsByLetter& n, Forward forward,
                                                          Backward backward) {
  using T = ScalarOfCall<Op>;
  using Space = typename B::Space;
  const SequenceCut cut = *ctx.sequence_cut();
  const Index rows = n['S'];
  require_parts(cut, Op::name, rows);
  const CutSequences<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Gradient part = g;
  std::vector<ScanInputs<T, Space>> sources;
  receive_cascade(ctx, cut, frame, part.forward, sources, n);
  const bool goes_on = crossing_count(cut, CutSide::goes_on, rows) > 0;
  const bool continues = crossing_count(cut, CutSide::continues, rows) > 0;
  std::vector<ScanInputs<T, Space>> dsources(g.dsources.begin(), g.dsources.end());
  std::vector<View<Wide<T>, 3, Space>> dfinals;
  if (goes_on) {
    {
      auto scratch = ctx.workspace().frame();
      Op again = part.forward;
      discard_outputs(scratch, again, n);
      again.final_state = {};
      run_and_send_cascade(ctx, cut, again, n, forward);
    }
    CrossingTensors states;
    const auto fused = own_copy(ctx, frame, Op::name, fused_state, g.dfinal_state, n);
    part.dfinal_state = fused;
    states.add(fused);
    for (std::size_t i = 0; i < dsources.size(); ++i) {
      dfinals.push_back(own_copy(ctx, frame, Op::name, fused_state, View<Wide<T>, 3, Space>(), n));
      states.add(dfinals.back());
    }
    receive_rows<Space>(cut, CutSide::goes_on, rows, states.all());
  }
  if (continues) {
    part.dinitial_state =
        begin_initial_gradient(ctx, cut, frame, fused_state, part.dinitial_state, false, n);
    for (auto& source : dsources)
      source.initial_state =
          begin_initial_gradient(ctx, cut, frame, fused_state, source.initial_state, true, n);
  }
  part.dsources = dsources;
  backward(ctx, part);
  if (goes_on && !dsources.empty()) {
    auto scratch = ctx.workspace().frame();
    const auto dy = scratch.template tensor<T>(n['B'], n['L'], n['D']);
    zero_across(ctx, dy);
    for (std::size_t i = 0; i < dsources.size(); ++i)
      selective_scan_backward(
          ctx, SelectiveScanBackward<T, Space>{
                   .forward = scan_of_source<T, Space>(sources[i], part.forward.segments),
                   .dy = dy,
                   .dfinal_state = dfinals[i],
                   .accumulate = true,
                   .du = dsources[i].u,
                   .ddt = dsources[i].dt,
                   .dA = dsources[i].A,
                   .dB = dsources[i].B,
                   .dinitial_state = dsources[i].initial_state});
  }
  if (!continues) return;
  CrossingTensors states;
  states.add(part.dinitial_state);
  for (const auto& source : dsources) states.add(source.initial_state);
  send_rows<Space>(cut, CutSide::continues, rows, states.all());
  end_initial_gradient(ctx, cut, part.dinitial_state, g.dinitial_state, false);
  for (std::size_t i = 0; i < dsources.size(); ++i)
    end_initial_gradient(ctx, cut, dsources[i].initial_state, g.dsources[i].initial_state, true);
}
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
  [[maybe_unused]] const ExtentsByLetter n = require_operands(a);
  if constexpr (requires { B::cascaded_scan(ctx, a); }) {
    if (ctx.sequence_cut() != nullptr)
      return detail::cascade_across(ctx, a, n, cascaded_scan<B, T>);
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
  [[maybe_unused]] const ExtentsByLetter n =
      require_gradients<CascadedScan<T, typename B::Space>>(g);
  if constexpr (requires { B::cascaded_scan_backward(ctx, g); }) {
    if (ctx.sequence_cut() != nullptr)
      return detail::cascade_across_backward<CascadedScan<T, typename B::Space>>(
          ctx, g, n, cascaded_scan<B, T>, cascaded_scan_backward<B, T>);
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
