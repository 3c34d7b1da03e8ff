// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "ssm/op/cascaded_scan.hpp"
#include "ssm/op/selective_scan.hpp"
#include "ssm/parallel/pass_states.hpp"

// On sequences that lie across ranks the states of the sources cross with the fused one; a scan of
// each source by itself says what its state at the end is.
namespace ssm::detail {

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
    std::vector<ScanInputs<T, typename B::Space>>& sources, const ExtentsByLetter& n,
    bool is_gradient) {
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
  if (take_kept(ctx, cut, part, n['S'], states.all(), is_gradient)) return;
  receive_rows(ctx, cut, CutSide::continues, n['S'], states.all());
  keep(ctx, cut, part, n['S'], states.all());
}

/// Runs the call and gives all states at the end to the rank behind.
template <class B, class T, class Run>
[[gnu::cold, gnu::noinline]] void run_and_send_cascade(Context<B>& ctx, const SequenceCut& cut,
                                                       const CascadedScan<T, typename B::Space>& a,
                                                       const ExtentsByLetter& n, Run run) {
  using Space = typename B::Space;
  if (!sends_states(cut, n['S'], false)) return run(ctx, a);
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
  send_rows(ctx, cut, CutSide::goes_on, n['S'], states.all());
  if (a.final_state) copy_across(ctx, part.name, fused, a.final_state);
}

template <class B, class T, class Run>
[[gnu::cold, gnu::noinline]] void cascade_across(Context<B>& ctx,
                                                 const CascadedScan<T, typename B::Space>& a,
                                                 const ExtentsByLetter& n, Run run) {
  const SequenceCut cut = *ctx.sequence_cut();
  require_parts(cut, a.name, n['S']);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  CascadedScan<T, typename B::Space> part = a;
  std::vector<ScanInputs<T, typename B::Space>> sources;
  receive_cascade(ctx, cut, frame, part, sources, n, false);
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
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Gradient part = g;
  std::vector<ScanInputs<T, Space>> sources;
  receive_cascade(ctx, cut, frame, part.forward, sources, n, true);
  const bool goes_on = crossing_count(cut, CutSide::goes_on, rows) > 0;
  const bool continues = crossing_count(cut, CutSide::continues, rows) > 0;
  std::vector<ScanInputs<T, Space>> dsources(g.dsources.begin(), g.dsources.end());
  std::vector<View<Wide<T>, 3, Space>> dfinals;
  if (goes_on) {
    if (sends_states(cut, rows, true)) {
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
    receive_rows(ctx, cut, CutSide::goes_on, rows, states.all());
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
  send_rows(ctx, cut, CutSide::continues, rows, states.all());
  end_initial_gradient(ctx, cut, part.dinitial_state, g.dinitial_state, false);
  for (std::size_t i = 0; i < dsources.size(); ++i)
    end_initial_gradient(ctx, cut, dsources[i].initial_state, g.dsources[i].initial_state, true);
}

}  // namespace ssm::detail
