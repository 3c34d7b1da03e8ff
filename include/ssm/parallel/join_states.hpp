// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/parallel/pass_states.hpp"
#include "ssm/parallel/state_factors.hpp"

// How a linear recurrence runs on sequences that lie across ranks, all ranks at once. The state at
// the end of a stretch is factor · (state at its beginning) + offset: each rank scans its stretch
// from zero, functions of neighbors are joined in log₂ steps, and each rank scans once more from
// the state that it then knows. Gradients of states are joined the same way from the last rank on.
namespace ssm::detail {

/// States that leave a rank's stretch at one end, each a function of one that enters some stretch
/// farther back: state = factor · (state number `source` there) + offset, element by element.
template <class W>
struct JoinedStates {
  static constexpr std::int64_t none = -1;  // source of a state that depends on no other rank

  std::vector<std::int64_t> source{};
  std::vector<W> factor{}, offset{};  // [states, width]
  std::size_t width = 0;              // numbers of a state
  bool is_complex = false;            // a number is two scalars

  std::size_t count() const { return source.size(); }
  void resize(std::size_t states) {
    source.assign(states, none);
    factor.assign(states * width, W{});
    offset.assign(states * width, W{});
  }

  /// Makes these states functions of those that `farther` is a function of.
  void join(const JoinedStates& farther) {
    for (std::size_t i = 0; i < count(); ++i) {
      if (source[i] == none) continue;
      const auto j = static_cast<std::size_t>(source[i]);
      if (j >= farther.count())
        throw CommunicationError("the ranks do not agree on which sequences go on between them");
      W* const own_factor = factor.data() + i * width;
      W* const own_offset = offset.data() + i * width;
      const W* const other_factor = farther.factor.data() + j * width;
      const W* const other_offset = farther.offset.data() + j * width;
      if (is_complex)
        join_complex(own_factor, own_offset, other_factor, other_offset);
      else
        for (std::size_t e = 0; e < width; ++e) {
          own_offset[e] += own_factor[e] * other_offset[e];
          own_factor[e] *= other_factor[e];
        }
      source[i] = farther.source[j];
    }
  }

 private:
  void join_complex(W* own_factor, W* own_offset, const W* other_factor,
                    const W* other_offset) const {
    for (std::size_t e = 0; e + 1 < width; e += 2) {
      const W re = own_factor[e], im = own_factor[e + 1];
      own_offset[e] += re * other_offset[e] - im * other_offset[e + 1];
      own_offset[e + 1] += re * other_offset[e + 1] + im * other_offset[e];
      own_factor[e] = re * other_factor[e] - im * other_factor[e + 1];
      own_factor[e + 1] = re * other_factor[e + 1] + im * other_factor[e];
    }
  }
};

/// What of joined states is sent.
enum class JoinedPart { all, offset };

/// Sends states to one rank and receives others from another; a rank outside is none.
template <class W>
[[gnu::cold, gnu::noinline]] JoinedStates<W> exchange_joined(Communicator& ranks,
                                                             const JoinedStates<W>& own, int to,
                                                             int from, JoinedPart part) {
  const auto known = [&](int rank) { return rank >= 0 && rank < ranks.size() ? rank : -1; };
  to = known(to);
  from = known(from);
  JoinedStates<W> other{.width = own.width, .is_complex = own.is_complex};
  const std::uint64_t sent_count = own.count();
  std::uint64_t count = 0;
  ranks.exchange(std::as_bytes(std::span(&sent_count, 1)), to,
                 std::as_writable_bytes(std::span(&count, 1)), from);
  other.resize(static_cast<std::size_t>(count));
  const auto message_of = [&](std::size_t states) {
    const std::size_t numbers = states * own.width * (part == JoinedPart::all ? 2 : 1);
    return std::vector<std::byte>(states * sizeof(own.source[0]) + numbers * sizeof(W));
  };
  std::vector<std::byte> sent = message_of(own.count()), received = message_of(other.count());
  const auto for_each_part = [&](auto& states, auto&& visit) {
    visit(states.source);
    visit(states.offset);
    if (part == JoinedPart::all) visit(states.factor);
  };
  std::byte* end = sent.data();
  for_each_part(own, [&](const auto& numbers) {
    const auto bytes = std::as_bytes(std::span(numbers));
    end = std::copy(bytes.begin(), bytes.end(), end);
  });
  ranks.exchange(sent, own.count() > 0 ? to : -1, received, other.count() > 0 ? from : -1);
  const std::byte* begin = received.data();
  for_each_part(other, [&](auto& numbers) {
    const auto bytes = std::as_writable_bytes(std::span(numbers));
    std::copy_n(begin, bytes.size(), bytes.begin());
    begin += bytes.size();
  });
  return other;
}

/// What enters each stretch: joins the states that leave the stretches, and gives every rank those
/// that leave the one before it in this direction, which is 1, or −1 for gradients.
template <class W>
[[gnu::cold, gnu::noinline]] JoinedStates<W> join_over_ranks(Communicator& ranks,
                                                             JoinedStates<W> own, int direction) {
  const int rank = ranks.rank();
  for (int distance = 1; distance < ranks.size() - 1; distance *= 2)
    own.join(exchange_joined(ranks, own, rank + direction * distance, rank - direction * distance,
                             JoinedPart::all));
  return exchange_joined(ranks, own, rank + direction, rank - direction, JoinedPart::offset);
}

/// Copies rows that cross between a tensor and joined states.
template <class Space, class V, class W>
[[gnu::cold, gnu::noinline]] void copy_joined(const SequenceCut& cut, CutSide side, const V& tensor,
                                              JoinedStates<W>& states, bool into_states) {
  const Index rows = tensor.extent(0);
  if (states.count() != static_cast<std::size_t>(crossing_count(cut, side, rows)))
    throw CommunicationError("the ranks do not agree on which sequences go on between them");
  const std::array<CrossingRows, 1> all{
      {{reinterpret_cast<std::byte*>(tensor.data()), states.width * sizeof(W)}}};
  copy_crossing(cut, side, rows, all, std::as_writable_bytes(std::span(states.offset)), into_states,
                Space::copy);
}

/// Which of the states that leave at `side` come from which of those that enter at the other end,
/// and their factors, which row_factors(sequence row, span) writes.
template <class W, class Factors>
[[gnu::cold, gnu::noinline]] void set_sources(const SequenceCut& cut, CutSide side, Index rows,
                                              JoinedStates<W>& states, Factors&& row_factors) {
  const CutSide other = side == CutSide::goes_on ? CutSide::continues : CutSide::goes_on;
  std::int64_t entering = 0;
  std::size_t leaving = 0;
  for (Index row = 0; row < rows; ++row) {
    if (crosses(cut, side, row)) {
      if (crosses(cut, other, row)) {
        states.source[leaving] = entering;
        row_factors(row, std::span(states.factor).subspan(leaving * states.width, states.width));
      }
      ++leaving;
    }
    if (crosses(cut, other, row)) ++entering;
  }
}

/// The description of the state at the end.
template <class Op>
constexpr Operand final_operand() {
  Operand result{};
  Op::for_each_operand([&](const Operand& what, auto, auto) {
    if (what.role == Role::final_state) result = what;
  });
  return result;
}
/// The sequence of a row of state.
template <class V>
Sequence sequence_of(const V& y, Segments segments, Index row) {
  return sequence_at(row, y.extent(1), segments);
}
constexpr int letter_count(const char* letters) {
  int count = 0;
  while (letters[count] != 0) ++count;
  return count;
}
template <class Op>
inline constexpr int final_rank = letter_count(final_operand<Op>().letters);

template <class Op>
auto empty_states(const Op& a, const ExtentsByLetter& n) {
  JoinedStates<Wide<ScalarOfCall<Op>>> states{.width = 1,
                                              .is_complex = StateFactors<Op>::is_complex(a)};
  constexpr Operand what = final_operand<Op>();
  for (std::size_t axis = 1; what.letters[axis] != 0; ++axis)
    states.width *= static_cast<std::size_t>(n[what.letters[axis]]);
  return states;
}

/// Runs a call, and says with which states its sequences leave this rank.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] auto run_for_states(Context<B>& ctx, const SequenceCut& cut,
                                                 const Op& a, const ExtentsByLetter& n, Run run) {
  using W = Wide<ScalarOfCall<Op>>;
  constexpr Operand what = final_operand<Op>();
  auto states = empty_states(a, n);
  const Index leaving = crossing_count(cut, CutSide::goes_on, n['S']);
  if (leaving == 0) {
    run(ctx, a);
    return states;
  }
  states.resize(static_cast<std::size_t>(leaving));
  auto frame = ctx.workspace().frame();
  Op part = a;
  if (!part.final_state || !part.final_state.is_contiguous())
    part.final_state = frame.template tensor<W>(
        shape_of<typename decltype(part.final_state)::Shape>(what.letters, n));
  run(ctx, part);
  copy_joined<typename B::Space>(cut, CutSide::goes_on, part.final_state, states, true);
  if (a.final_state && a.final_state.data() != part.final_state.data())
    copy_across(ctx, Op::name, part.final_state, a.final_state);
  set_sources(cut, CutSide::goes_on, n['S'], states, [&](Index row, std::span<W> factors) {
    StateFactors<Op>::write(a, sequence_of(part.y, a.segments, row), factors);
  });
  return states;
}

/// Gives a call the states that its sequences come with. Returns whether the call has run already,
/// with its outputs and all, as it waits for nothing.
/// discards   the call is not to run, it is about the states alone
template <class B, class Frame, class Op, class Run>
[[gnu::cold, gnu::noinline]] bool join_initial(Context<B>& ctx, const SequenceCut& cut,
                                               Frame& frame, Op& part, const ExtentsByLetter& n,
                                               bool discards, Run run) {
  using W = Wide<ScalarOfCall<Op>>;
  const bool continues = crossing_count(cut, CutSide::continues, n['S']) > 0;
  View<W, final_rank<Op>, typename B::Space> initial{};
  if (continues) {
    initial = own_copy(ctx, frame, Op::name, final_operand<Op>(), part.initial_state, n);
    for (Index row = 0; row < n['S']; ++row)
      if (cut.continues(row)) zero_across(ctx, initial.slice(0, row, row + 1));
    part.initial_state = initial;
  }
  CrossingTensors kept;
  if (continues) kept.add(initial);
  if (cut.kept != nullptr && (discards || cut.kept->is_backward())) {
    if (continues) take_kept(ctx, cut, part, n['S'], kept.all(), discards);
    return false;
  }
  auto scratch = ctx.workspace().frame();
  Op first = part;
  if (continues || discards) {
    discard_outputs(scratch, first, n);
    first.final_state = {};
  }
  const bool is_needed = crossing_count(cut, CutSide::goes_on, n['S']) > 0;
  auto leaving = is_needed || !(continues || discards) ? run_for_states(ctx, cut, first, n, run)
                                                       : empty_states<Op>(part, n);
  auto entering = join_over_ranks(*cut.ranks, std::move(leaving), 1);
  if (continues) copy_joined<typename B::Space>(cut, CutSide::continues, initial, entering, false);
  if (continues) keep(ctx, cut, part, n['S'], kept.all());
  return !continues && !discards;
}

/// A call of a linear recurrence on sequences that lie across ranks.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void join_states(Context<B>& ctx, const Op& a,
                                              const ExtentsByLetter& n, Run run) {
  const SequenceCut cut = *ctx.sequence_cut();
  require_parts(cut, Op::name, n['S']);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Op part = a;
  if (!join_initial(ctx, cut, frame, part, n, false, run)) run(ctx, part);
}

/// Leaves out the gradients of a call but those of the initial states; those that must be given
/// go to memory that nobody reads.
template <class Op, class Frame, class Gradient>
[[gnu::cold, gnu::noinline]] void discard_gradients(Frame& frame, Gradient& part,
                                                    const ExtentsByLetter& n) {
  if constexpr (requires { part.accumulate; }) part.accumulate = false;
  Op::for_each_operand([&](const Operand& what, auto, auto partner) {
    if constexpr (!std::is_same_v<decltype(partner), std::nullptr_t>) {
      using V = std::remove_cvref_t<decltype(part.*partner)>;
      if constexpr (!std::is_const_v<typename V::Element>) {
        if (!is_read(what) || what.role == Role::initial_state) return;
        part.*partner = {};
        if (!what.has_optional_gradient)
          part.*partner = frame.template tensor<typename V::Value>(
              shape_of<typename V::Shape>(what.letters, n));
      }
    }
  });
}

/// The same for the call of the gradient. Where the states at the beginnings of stretches are not
/// kept, they are joined again.
template <class Op, class B, class Gradient, class Forward, class Backward>
[[gnu::cold, gnu::noinline]] void join_gradients(Context<B>& ctx, const Gradient& g,
                                                 const ExtentsByLetter& n, Forward forward,
                                                 Backward backward) {
  using Space = typename B::Space;
  using W = Wide<ScalarOfCall<Op>>;
  const SequenceCut cut = *ctx.sequence_cut();
  const Index rows = n['S'];
  require_parts(cut, Op::name, rows);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Gradient part = g;
  join_initial(ctx, cut, frame, part.forward, n, true, forward);
  const bool continues = crossing_count(cut, CutSide::continues, rows) > 0;
  const bool goes_on = crossing_count(cut, CutSide::goes_on, rows) > 0;
  auto leaving = empty_states<Op>(part.forward, n);
  View<W, final_rank<Op>, Space> dfinal{}, dinitial{};
  if (continues) {
    dinitial = begin_initial_gradient(ctx, cut, frame, final_operand<Op>(), g.dinitial_state,
                                      accumulates(g), n);
    part.dinitial_state = dinitial;
    leaving.resize(static_cast<std::size_t>(crossing_count(cut, CutSide::continues, rows)));
  }
  if (goes_on) {
    dfinal = own_copy(ctx, frame, Op::name, final_operand<Op>(), g.dfinal_state, n);
    for (Index row = 0; row < rows; ++row)
      if (cut.goes_on(row)) zero_across(ctx, dfinal.slice(0, row, row + 1));
    part.dfinal_state = dfinal;
  }
  if (!goes_on) {
    backward(ctx, part);
    copy_joined<Space>(cut, CutSide::continues, dinitial, leaving, true);
  } else if (continues) {
    auto scratch = ctx.workspace().frame();
    Gradient first = part;
    discard_gradients<Op>(scratch, first, n);
    const auto own = scratch.template tensor<W>(dinitial.extents());
    first.dinitial_state = own;
    backward(ctx, first);
    copy_joined<Space>(cut, CutSide::continues, own, leaving, true);
    set_sources(cut, CutSide::continues, rows, leaving, [&](Index row, std::span<W> factors) {
      StateFactors<Op>::write(g.forward, sequence_of(g.dy, g.forward.segments, row), factors);
      if (leaving.is_complex)  // a gradient goes through the conjugate
        for (std::size_t e = 1; e < factors.size(); e += 2) factors[e] = -factors[e];
    });
  }
  auto entering = join_over_ranks(*cut.ranks, std::move(leaving), -1);
  if (goes_on) {
    copy_joined<Space>(cut, CutSide::goes_on, dfinal, entering, false);
    backward(ctx, part);
  }
  if (continues) end_initial_gradient(ctx, cut, dinitial, g.dinitial_state, accumulates(g));
}

/// A call of a linear recurrence, and that of its gradient, on sequences that lie across ranks. On
/// a device, whose parameters the host does not read, states go from rank to rank one by one: each
/// rank is a scan behind the one before it, once for all layers, as nobody waits for who is behind.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void states_across(Context<B>& ctx, const Op& a,
                                                const ExtentsByLetter& n, Run run) {
  if constexpr (B::Space::host_readable)
    join_states(ctx, a, n, run);
  else
    pass_states(ctx, a, n, run);
}
template <class Op, class B, class Gradient, class Forward, class Backward>
[[gnu::cold, gnu::noinline]] void gradients_across(Context<B>& ctx, const Gradient& g,
                                                   const ExtentsByLetter& n, Forward forward,
                                                   Backward backward) {
  if constexpr (B::Space::host_readable)
    join_gradients<Op>(ctx, g, n, forward, backward);
  else
    pass_gradients<Op>(ctx, g, n, forward, backward);
}

}  // namespace ssm::detail
