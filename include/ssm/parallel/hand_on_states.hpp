// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>

#include "ssm/op/shift_convolution.hpp"
#include "ssm/op/short_convolution.hpp"
#include "ssm/parallel/pass_states.hpp"

// How a filter that remembers few positions runs on sequences that lie across ranks, all ranks at
// once: the state at the end of a stretch follows from its last positions alone, so that a rank
// hands it on before it knows its own first one. Gradients of states follow from the first
// positions.
namespace ssm::detail {

/// After how many positions nothing is left of a state: for each such primitive
///   static constexpr const char* letters          of the state
///   static Index positions(const Op&)
template <class Op>
struct StateMemory;
template <class T, class Space>
struct StateMemory<ShiftConvolution<T, Space>> {
  static constexpr const char* letters = "SDN";
  static Index positions(const ShiftConvolution<T, Space>& a) { return a.B.extent(1); }
};
template <class T, class Space>
struct StateMemory<ShortConvolution<T, Space>> {
  static constexpr const char* letters = "SDW";
  static Index positions(const ShortConvolution<T, Space>& a) { return a.weight.extent(1); }
};

/// Whether each sequence that crosses both ends of the stretch has so many positions on it. Else
/// what leaves depends on what comes, and the rank waits for that.
inline bool forgets(const SequenceCut& cut, Index rows, Index length, Segments segments,
                    Index memory) {
  for (Index row = 0; row < rows; ++row) {
    const Sequence s = sequence_at(row, length, segments);
    if (cut.continues(row) && cut.goes_on(row) && s.end - s.begin < memory) return false;
  }
  return true;
}

/// Sends the states at the ends of the sequences that go on: each of a call on its last positions.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void send_ends(Context<B>& ctx, const SequenceCut& cut, const Op& a,
                                            const ExtentsByLetter& n, bool is_gradient, Run run) {
  using W = Wide<ScalarOfCall<Op>>;
  if (!sends_states(cut, n['S'], is_gradient)) return;
  auto frame = ctx.workspace().frame();
  const Index memory = StateMemory<Op>::positions(a);
  const auto ends = frame.template tensor<W>(n['S'], n['D'], memory);
  for (Index row = 0; row < n['S']; ++row) {
    if (!cut.goes_on(row)) continue;
    const Sequence s = sequence_at(row, n['L'], a.segments);
    const Index begin = std::max(s.begin, s.end - memory);
    auto scratch = ctx.workspace().frame();
    Op end = a;
    end.segments = {};
    end.x = stretch_in(a.x, s.batch, begin, s.end);
    end.y = scratch.template tensor<ScalarOfCall<Op>>(Index{1}, s.end - begin, n['D']);
    end.initial_state = {};
    if (begin == s.begin && !cut.continues(row) && a.initial_state)
      end.initial_state = a.initial_state.slice(0, row, row + 1);
    end.final_state = ends.slice(0, row, row + 1);
    run(ctx, end);
  }
  CrossingTensors states;
  states.add(ends);
  send_rows(ctx, cut, CutSide::goes_on, n['S'], states.all());
}

/// A call on sequences that lie across ranks.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void hand_on_states(Context<B>& ctx, const Op& a,
                                                 const ExtentsByLetter& n, Run run) {
  const SequenceCut cut = *ctx.sequence_cut();
  require_parts(cut, Op::name, n['S']);
  if (!forgets(cut, n['S'], n['L'], a.segments, StateMemory<Op>::positions(a)))
    return pass_states(ctx, a, n, run);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Op part = a;
  send_ends(ctx, cut, a, n, false, run);
  receive_initial(ctx, cut, frame, part, n, false);
  run(ctx, part);
}

/// Sends the gradients of the states with which sequences continue: each of a call on its first
/// positions.
template <class Op, class B, class Gradient, class Run>
[[gnu::cold, gnu::noinline]] void send_beginnings(Context<B>& ctx, const SequenceCut& cut,
                                                  const Gradient& g, const Op& a,
                                                  const ExtentsByLetter& n, Run run) {
  if (crossing_count(cut, CutSide::continues, n['S']) == 0) return;
  auto frame = ctx.workspace().frame();
  const Index memory = StateMemory<Op>::positions(a);
  const auto begins = frame.template tensor<Wide<ScalarOfCall<Op>>>(n['S'], n['D'], memory);
  for (Index row = 0; row < n['S']; ++row) {
    if (!cut.continues(row)) continue;
    const Sequence s = sequence_at(row, n['L'], a.segments);
    const Index end = std::min(s.end, s.begin + memory);
    Gradient begin{};
    begin.forward = a;
    begin.forward.segments = {};
    begin.forward.x = stretch_in(a.x, s.batch, s.begin, end);
    begin.forward.initial_state = a.initial_state.slice(0, row, row + 1);
    begin.dy = stretch_in(g.dy, s.batch, s.begin, end);
    if (end == s.end && !cut.goes_on(row) && g.dfinal_state)
      begin.dfinal_state = g.dfinal_state.slice(0, row, row + 1);
    begin.dinitial_state = begins.slice(0, row, row + 1);
    run(ctx, begin);
  }
  CrossingTensors states;
  states.add(begins);
  send_rows(ctx, cut, CutSide::continues, n['S'], states.all());
}

/// The same for the call of the gradient.
template <class Op, class B, class Gradient, class Forward, class Backward>
[[gnu::cold, gnu::noinline]] void hand_on_gradients(Context<B>& ctx, const Gradient& g,
                                                    const ExtentsByLetter& n, Forward forward,
                                                    Backward backward) {
  const SequenceCut cut = *ctx.sequence_cut();
  const Index rows = n['S'], memory = StateMemory<Op>::positions(g.forward);
  require_parts(cut, Op::name, rows);
  if (!forgets(cut, rows, n['L'], g.forward.segments, memory))
    return pass_gradients<Op>(ctx, g, n, forward, backward);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Gradient part = g;
  send_ends(ctx, cut, g.forward, n, true, forward);
  receive_initial(ctx, cut, frame, part.forward, n, true);
  send_beginnings<Op>(ctx, cut, g, part.forward, n, backward);
  constexpr Operand what{.name = "state", .letters = StateMemory<Op>::letters, .role = Role::again};
  if (crossing_count(cut, CutSide::goes_on, rows) > 0) {
    const auto own = own_copy(ctx, frame, Op::name, what, g.dfinal_state, n);
    CrossingTensors finals;
    finals.add(own);
    receive_rows(ctx, cut, CutSide::goes_on, rows, finals.all());
    part.dfinal_state = own;
  }
  if (!g.dinitial_state || crossing_count(cut, CutSide::continues, rows) == 0)
    return backward(ctx, part);
  const auto own = begin_initial_gradient(ctx, cut, frame, what, g.dinitial_state, false, n);
  part.dinitial_state = own;
  backward(ctx, part);
  end_initial_gradient(ctx, cut, own, g.dinitial_state, false);
}

}  // namespace ssm::detail
