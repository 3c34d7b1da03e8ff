// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/op/widened.hpp"  // is_member_in, ScalarOfCall, accumulates

// How a primitive with states runs on sequences that lie across ranks (core/sequence_cut.hpp): the
// state at the end of a rank's stretch is where the next rank begins, and its gradient comes back.
// Made from the description of the operands, for every primitive alike. All of it is cold, so that
// compilers take no time to inline kernels into it.
namespace ssm::detail {

/// What of a sequence is meant: where it comes from the rank before, or where it goes on.
enum class CutSide { continues, goes_on };

inline bool crosses(const SequenceCut& cut, CutSide side, Index row) {
  return side == CutSide::continues ? cut.continues(row) : cut.goes_on(row);
}
inline Index crossing_count(const SequenceCut& cut, CutSide side, Index rows) {
  Index count = 0;
  for (Index row = 0; row < rows; ++row) count += crosses(cut, side, row) ? 1 : 0;
  return count;
}
/// Throws  ShapeError  unless there is a part for each sequence of the call, or are no parts
inline void require_parts(const SequenceCut& cut, const char* op, Index rows) {
  if (!cut.parts.empty() && static_cast<Index>(cut.parts.size()) != rows)
    throw ShapeError(op, "sequence cut",
                     message({"has ", cut.parts.size(), " parts for ", rows, " sequences"}));
}

/// The positions begin … end−1 of a batch's sequence, as a batch of one.
template <class V>
auto stretch_in(const V& view, Index batch, Index begin, Index end) {
  return view.slice(0, batch, batch + 1).slice(1, begin, end);
}
template <class V>
auto stretch_in(const V& view, const Sequence& s) {
  return stretch_in(view, s.batch, s.begin, s.end);
}

/// The rows of a tensor without gaps, one for each sequence of a call.
struct CrossingRows {
  std::byte* data = nullptr;
  std::size_t row_bytes = 0;
};

inline std::size_t crossing_bytes(const SequenceCut& cut, CutSide side, Index rows,
                                  std::span<const CrossingRows> tensors) {
  std::size_t bytes = 0;
  for (const CrossingRows& tensor : tensors) bytes += tensor.row_bytes;
  return bytes * static_cast<std::size_t>(crossing_count(cut, side, rows));
}
/// Moves the rows that cross between tensors and a message, in the order of tensors, by
/// copy(to, from, bytes).
template <class Copy>
[[gnu::cold, gnu::noinline]] void copy_crossing(const SequenceCut& cut, CutSide side, Index rows,
                                                std::span<const CrossingRows> tensors,
                                                std::span<std::byte> message, bool is_sent,
                                                const Copy& copy) {
  std::byte* at = message.data();
  for (const CrossingRows& tensor : tensors)
    for (Index row = 0; row < rows;) {
      Index end = row;  // of the rows beside each other that cross
      while (end < rows && crosses(cut, side, end)) ++end;
      if (end == row) {
        ++row;
        continue;
      }
      const std::size_t part = tensor.row_bytes * static_cast<std::size_t>(end - row);
      std::byte* const place = tensor.data + tensor.row_bytes * static_cast<std::size_t>(row);
      if (is_sent)
        copy(at, place, part);
      else
        copy(place, at, part);
      at += part;
      row = end;
    }
}
/// How the ranks of a cut reach each other's devices; null where they do not.
template <class B>
DeviceCommunicator* devices_of(const Context<B>&, const SequenceCut& cut) {
  if constexpr (queues<B>)
    return cut.ranks->on_device();
  else
    return nullptr;
}
/// Between neighbors, in the memory of their devices or in the host's.
template <class B>
[[gnu::cold, gnu::noinline]] void exchange_rows(Context<B>& ctx, const SequenceCut& cut,
                                                CutSide side, Index rows,
                                                std::span<const CrossingRows> tensors,
                                                bool is_sent) {
  if (crossing_count(cut, side, rows) == 0) return;
  const int other = cut.ranks->rank() + (side == CutSide::goes_on ? 1 : -1);
  if constexpr (queues<B>)
    if (DeviceCommunicator* const devices = devices_of(ctx, cut)) {
      auto frame = ctx.workspace().frame();
      const auto all = frame.template tensor<std::byte>(
          static_cast<Index>(crossing_bytes(cut, side, rows, tensors)));
      const std::span message(all.data(), static_cast<std::size_t>(all.size()));
      const auto copy = [&](void* to, const void* from, std::size_t bytes) {
        ctx.copy(to, from, bytes);
      };
      if (is_sent) copy_crossing(cut, side, rows, tensors, message, true, copy);
      if (is_sent) return devices->send(message, other, ctx.resources().stream());
      devices->receive(message, other, ctx.resources().stream());
      return copy_crossing(cut, side, rows, tensors, message, false, copy);
    }
  std::vector<std::byte> message(crossing_bytes(cut, side, rows, tensors));
  if (is_sent) copy_crossing(cut, side, rows, tensors, message, true, B::Space::copy);
  if (is_sent) return cut.ranks->send(message, other);
  cut.ranks->receive(message, other);
  copy_crossing(cut, side, rows, tensors, message, false, B::Space::copy);
}
template <class B>
void send_rows(Context<B>& ctx, const SequenceCut& cut, CutSide side, Index rows,
               std::span<const CrossingRows> tensors) {
  exchange_rows(ctx, cut, side, rows, tensors, true);
}
template <class B>
void receive_rows(Context<B>& ctx, const SequenceCut& cut, CutSide side, Index rows,
                  std::span<const CrossingRows> tensors) {
  exchange_rows(ctx, cut, side, rows, tensors, false);
}

/// Calls visit(index…) for every index of a shape, but for its last axes that are `skipped`.
template <class Shape, class Visit>
void for_each_index(const Shape& shape, Visit&& visit) {
  auto extents = shape.to_array();
  std::array<Index, Shape::rank()> index{};
  for (Index i = 0; i < shape.size(); ++i) {
    visit(index);
    for (std::size_t axis = extents.size(); axis-- > 0;) {
      if (++index[axis] < extents[axis]) break;
      index[axis] = 0;
    }
  }
}

/// Copies a tensor whatever its strides; on a device both have to be without gaps.
template <class B, class V, class W>
[[gnu::cold, gnu::noinline]] void copy_across(Context<B>& ctx, const char* op, const V& from,
                                              const W& to) {
  if (from.size() == 0) return;
  if (from.is_contiguous() && to.is_contiguous()) {
    ctx.copy(to.data(), from.data(), static_cast<std::size_t>(from.size()) * sizeof(*to.data()));
  } else if constexpr (B::Space::host_readable) {
    for_each_index(from.extents(), [&](const auto& index) {
      Index at = 0, behind = 0;
      for (std::size_t axis = 0; axis < index.size(); ++axis) {
        at += index[axis] * from.strides()[axis];
        behind += index[axis] * to.strides()[axis];
      }
      to.data()[behind] = from.data()[at];
    });
  } else {
    throw ShapeError(op, "state", "must be without gaps where sequences lie across ranks");
  }
}
/// Writes zeros into a tensor without gaps.
template <class B, class V>
[[gnu::cold, gnu::noinline]] void zero_across(Context<B>& ctx, const V& to) {
  if (to.size() == 0) return;
  if constexpr (B::Space::host_readable) {
    std::fill_n(to.data(), to.size(), typename V::Value{});
  } else if constexpr (requires(void* all) { B::Space::fill_zero(all, std::size_t{}); }) {
    B::Space::fill_zero(to.data(), static_cast<std::size_t>(to.size()) * sizeof(*to.data()));
  } else {
    const std::vector<std::byte> zeros(static_cast<std::size_t>(to.size()) * sizeof(*to.data()));
    B::Space::copy(to.data(), zeros.data(), zeros.size());
    static_cast<void>(ctx);
  }
}

template <class Shape>
Shape shape_of(const char* letters, const ExtentsByLetter& n) {
  std::array<Index, static_cast<std::size_t>(Shape::rank())> extents{};
  for (std::size_t axis = 0; axis < extents.size(); ++axis)
    extents[axis] = letters[axis] <= '9' ? letters[axis] - '0' : n[letters[axis]];
  return std::apply([](auto... extent) { return Shape(extent...); }, extents);
}

/// The states of one call, or their gradients, in memory without gaps.
class CrossingTensors {
 public:
  template <class V>
  void add(const V& view) {
    const auto bytes = static_cast<std::size_t>(view.size()) * sizeof(typename V::Value);
    const Index rows = view.extent(0);
    all_.at(count_++) = {reinterpret_cast<std::byte*>(const_cast<typename V::Value*>(view.data())),
                         rows == 0 ? 0 : bytes / static_cast<std::size_t>(rows)};
  }
  std::span<const CrossingRows> all() const { return {all_.data(), count_}; }

 private:
  std::array<CrossingRows, 12> all_{};
  std::size_t count_ = 0;
};

/// A copy of `given`, or zeros, without gaps.
template <class B, class Frame, class V>
[[gnu::cold, gnu::noinline]] auto own_copy(Context<B>& ctx, Frame& frame, const char* op,
                                           const Operand& what, const V& given,
                                           const ExtentsByLetter& n) {
  const auto own =
      frame.template tensor<typename V::Value>(shape_of<typename V::Shape>(what.letters, n));
  if (given)
    copy_across(ctx, op, given, own);
  else
    zero_across(ctx, own);
  return own;
}

/// Whether a member, by its pointer, is a view of W that a call may write, or may not.
template <class W, bool is_written>
constexpr bool is_state_in(std::nullptr_t) {
  return false;
}
template <class W, bool is_written, class V, class Call>
constexpr bool is_state_in(V Call::*) {
  return std::is_same_v<typename V::Value, W> && std::is_const_v<typename V::Element> != is_written;
}

/// Calls visit(operand, member, partner) for the states of that role: initial, or final.
template <class Op, Role role, class Visit>
[[gnu::cold, gnu::noinline]] void for_each_crossing_state(Visit&& visit) {
  using W = Wide<ScalarOfCall<Op>>;
  constexpr bool is_final = role == Role::final_state;
  Op::for_each_operand([&](const Operand& what, auto member, auto partner) {
    if constexpr (is_state_in<W, is_final>(decltype(member){}) &&
                  is_state_in<W, !is_final>(decltype(partner){}))
      if (what.role == role) visit(what, member, partner);
  });
}

/// By what a call's kept states are found.
template <class B, class Op>
[[gnu::cold, gnu::noinline]] KeptStates::Call kept_call(const Op& a, Index rows,
                                                        std::span<const CrossingRows> tensors) {
  KeptStates::Call call{.type = call_type<B, Op>};
  for (const CrossingRows& tensor : tensors)
    call.bytes += tensor.row_bytes * static_cast<std::size_t>(rows);
  Op::for_each_operand([&](const Operand& what, auto member, auto) {
    if (what.role != Role::input) return;
    const auto place = reinterpret_cast<std::uintptr_t>((a.*member).data());
    call.operands = (call.operands ^ place) * 1099511628211u;
  });
  return call;
}
/// Takes the states with which sequences continue from what a forward pass kept. Returns whether
/// they were there: in the forward pass they come from the rank before.
/// is_gradient   they are for the call of a gradient
template <class B, class Op>
[[gnu::cold, gnu::noinline]] bool take_kept(Context<B>& ctx, const SequenceCut& cut, const Op& a,
                                            Index rows, std::span<const CrossingRows> tensors,
                                            bool is_gradient) {
  if (cut.kept == nullptr || !(is_gradient || cut.kept->is_backward())) return false;
  const auto* from =
      static_cast<const std::byte*>(cut.kept->find(kept_call<B>(a, rows, tensors), is_gradient));
  for (const CrossingRows& tensor : tensors) {
    ctx.copy(tensor.data, from, tensor.row_bytes * static_cast<std::size_t>(rows));
    from += tensor.row_bytes * static_cast<std::size_t>(rows);
  }
  return true;
}
template <class B, class Op>
[[gnu::cold, gnu::noinline]] void keep(Context<B>& ctx, const SequenceCut& cut, const Op& a,
                                       Index rows, std::span<const CrossingRows> tensors) {
  if (cut.kept == nullptr) return;
  auto* to = static_cast<std::byte*>(
      cut.kept->template keep<typename B::Space>(kept_call<B>(a, rows, tensors)));
  for (const CrossingRows& tensor : tensors) {
    ctx.copy(to, tensor.data, tensor.row_bytes * static_cast<std::size_t>(rows));
    to += tensor.row_bytes * static_cast<std::size_t>(rows);
  }
}
/// Whether states go to the rank behind in a call: not where it has kept them.
inline bool sends_states(const SequenceCut& cut, Index rows, bool is_gradient) {
  return crossing_count(cut, CutSide::goes_on, rows) > 0 &&
         (cut.kept == nullptr || !(is_gradient || cut.kept->is_backward()));
}

/// Gives a call the states that its sequences come with from the rank before.
template <class B, class Frame, class Op>
[[gnu::cold, gnu::noinline]] void receive_initial(Context<B>& ctx, const SequenceCut& cut,
                                                  Frame& frame, Op& part, const ExtentsByLetter& n,
                                                  bool is_gradient) {
  if (crossing_count(cut, CutSide::continues, n['S']) == 0) return;
  CrossingTensors states;
  for_each_crossing_state<Op, Role::initial_state>([&](const Operand& what, auto member, auto) {
    const auto own = own_copy(ctx, frame, Op::name, what, part.*member, n);
    states.add(own);
    part.*member = own;
  });
  if (take_kept(ctx, cut, part, n['S'], states.all(), is_gradient)) return;
  receive_rows(ctx, cut, CutSide::continues, n['S'], states.all());
  keep(ctx, cut, part, n['S'], states.all());
}

/// Runs a call and gives its states at the end to the rank behind.
template <class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void run_and_send(Context<B>& ctx, const SequenceCut& cut, const Op& a,
                                               const ExtentsByLetter& n, Run run) {
  if (!sends_states(cut, n['S'], false)) return run(ctx, a);
  auto frame = ctx.workspace().frame();
  Op part = a;
  CrossingTensors states;
  for_each_crossing_state<Op, Role::final_state>([&](const Operand& what, auto member, auto) {
    if (!(part.*member) || !(part.*member).is_contiguous())
      part.*member =
          frame.template tensor<typename std::remove_cvref_t<decltype(part.*member)>::Value>(
              shape_of<typename std::remove_cvref_t<decltype(part.*member)>::Shape>(what.letters,
                                                                                    n));
    states.add(part.*member);
  });
  run(ctx, part);
  send_rows(ctx, cut, CutSide::goes_on, n['S'], states.all());
  for_each_crossing_state<Op, Role::final_state>([&](const Operand&, auto member, auto) {
    if (a.*member && (a.*member).data() != (part.*member).data())
      copy_across(ctx, Op::name, part.*member, a.*member);
  });
}

/// The positions of the first rows of a call's sequences on this rank.
template <class B, class Frame>
[[gnu::cold, gnu::noinline]] View<const std::int64_t, 1, typename B::Space> positions_across(
    Context<B>&, const SequenceCut& cut, Frame& frame,
    const View<const std::int64_t, 1, typename B::Space>& position, Index rows) {
  std::vector<std::int64_t> here(static_cast<std::size_t>(rows));
  if (position)
    for (Index row = 0; row < rows; ++row)
      B::Space::copy(&here[static_cast<std::size_t>(row)],
                     position.data() + row * position.stride(0), sizeof(std::int64_t));
  for (Index row = 0; row < rows; ++row)
    here[static_cast<std::size_t>(row)] += static_cast<std::int64_t>(cut.before(row));
  const auto result = frame.template tensor<std::int64_t>(rows);
  B::Space::copy(result.data(), here.data(), here.size() * sizeof(std::int64_t));
  return result;
}
/// A call on sequences that lie across ranks; run(call) is the call on this rank's stretch.
/// keeps   the call of the gradient reads the states that the call begins from
template <bool keeps = true, class B, class Op, class Run>
[[gnu::cold, gnu::noinline]] void pass_states(Context<B>& ctx, const Op& a,
                                              const ExtentsByLetter& n, Run run) {
  SequenceCut cut = *ctx.sequence_cut();
  if constexpr (!keeps) cut.kept = nullptr;
  require_parts(cut, Op::name, n['S']);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Op part = a;
  if constexpr (requires { part.position; })
    part.position = positions_across(ctx, cut, frame, a.position, n['S']);
  receive_initial(ctx, cut, frame, part, n, false);
  run_and_send(ctx, cut, part, n, run);
}

/// Gives a forward call that is run again for its states memory to write to.
template <class Frame, class Op>
[[gnu::cold, gnu::noinline]] void discard_outputs(Frame& frame, Op& part,
                                                  const ExtentsByLetter& n) {
  Op::for_each_operand([&](const Operand& what, auto member, auto) {
    using V = std::remove_cvref_t<decltype(part.*member)>;
    if constexpr (!std::is_const_v<typename V::Element>) {
      if (what.role != Role::output) return;
      part.*member = {};
      if (!what.is_optional)
        part.*member =
            frame.template tensor<typename V::Value>(shape_of<typename V::Shape>(what.letters, n));
    }
  });
}

/// Memory for the gradient of the initial state, which is given or not; with what is added to.
template <class B, class Frame, class V>
[[gnu::cold, gnu::noinline]] auto begin_initial_gradient(Context<B>& ctx, const SequenceCut& cut,
                                                         Frame& frame, const Operand& what,
                                                         const V& given, bool is_added,
                                                         const ExtentsByLetter& n) {
  const auto own = own_copy(ctx, frame, "gradient of a state", what, is_added ? given : V(), n);
  for (Index row = 0; row < n['S']; ++row)
    if (cut.continues(row)) zero_across(ctx, own.slice(0, row, row + 1));
  return own;
}
/// Writes what is given of it: zero where the initial state was not read, as the sequence
/// continues.
template <class B, class V, class W>
[[gnu::cold, gnu::noinline]] void end_initial_gradient(Context<B>& ctx, const SequenceCut& cut,
                                                       const V& own, const W& given,
                                                       bool is_added) {
  if (!given) return;
  for (Index row = 0; row < own.extent(0); ++row) {
    const auto from = own.slice(0, row, row + 1);
    if (cut.continues(row) && is_added) continue;
    if (cut.continues(row)) zero_across(ctx, from);
    copy_across(ctx, "gradient of a state", from, given.slice(0, row, row + 1));
  }
}

/// The same for the call of a gradient. Where the states that a stretch began from are not kept,
/// the forward call runs again for them.
template <class Op, class B, class Gradient, class Forward, class Backward>
[[gnu::cold, gnu::noinline]] void pass_gradients(Context<B>& ctx, const Gradient& g,
                                                 const ExtentsByLetter& n, Forward forward,
                                                 Backward backward) {
  const SequenceCut cut = *ctx.sequence_cut();
  const Index rows = n['S'];
  require_parts(cut, Op::name, rows);
  const SequenceCutScope<B> whole(ctx, {});
  auto frame = ctx.workspace().frame();
  Gradient part = g;
  if constexpr (requires { part.position; })
    part.position = positions_across(ctx, cut, frame, g.position, rows);
  if constexpr (requires { part.forward; }) {
    receive_initial(ctx, cut, frame, part.forward, n, true);
    if (sends_states(cut, rows, true)) {
      auto scratch = ctx.workspace().frame();
      Op again = part.forward;
      discard_outputs(scratch, again, n);
      for_each_crossing_state<Op, Role::final_state>(
          [&](const Operand&, auto member, auto) { again.*member = {}; });
      run_and_send(ctx, cut, again, n, forward);
    }
  }
  if (crossing_count(cut, CutSide::goes_on, rows) > 0) {
    CrossingTensors finals;
    for_each_crossing_state<Op, Role::final_state>([&](const Operand& what, auto, auto partner) {
      const auto own = own_copy(ctx, frame, Op::name, what, part.*partner, n);
      finals.add(own);
      part.*partner = own;
    });
    receive_rows(ctx, cut, CutSide::goes_on, rows, finals.all());
  }
  if (crossing_count(cut, CutSide::continues, rows) == 0) return backward(ctx, part);
  CrossingTensors initials;
  for_each_crossing_state<Op, Role::initial_state>([&](const Operand& what, auto, auto partner) {
    const auto own = begin_initial_gradient(ctx, cut, frame, what, g.*partner, accumulates(g), n);
    initials.add(own);
    part.*partner = own;
  });
  backward(ctx, part);
  send_rows(ctx, cut, CutSide::continues, rows, initials.all());
  for_each_crossing_state<Op, Role::initial_state>([&](const Operand&, auto, auto partner) {
    end_initial_gradient(ctx, cut, part.*partner, g.*partner, accumulates(g));
  });
}

/// A call that reads positions, with those of the sequences on this rank.
template <class B, class Call, class Run>
[[gnu::cold, gnu::noinline]] void shift_positions(Context<B>& ctx, const Call& a, Index rows,
                                                  Run run) {
  auto frame = ctx.workspace().frame();
  const SequenceCut cut = *ctx.sequence_cut();
  require_parts(cut, Call::name, rows);
  const SequenceCutScope<B> whole(ctx, {});
  Call part = a;
  part.position = positions_across(ctx, cut, frame, a.position, rows);
  run(ctx, part);
}

}  // namespace ssm::detail
