// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ssm/op/attention.hpp"
#include "ssm/op/decayed_attention.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/parallel/pass_states.hpp"

// Attention on sequences that lie across ranks: keys and values go from rank to rank, each adding
// its own, and their gradients come back the same way.
namespace ssm::detail {

/// A sequence that comes from another rank or goes on to one.
struct CrossingSequence {
  Sequence place;    // of its positions on this rank
  Index before = 0;  // positions on earlier ranks
  bool continues = false, goes_on = false;
  Index length() const { return before + place.end - place.begin; }
};

inline std::vector<CrossingSequence> crossing_sequences(const SequenceCut& cut, const char* op,
                                                        Index batch, Index length,
                                                        Segments segments) {
  require_parts(cut, op, sequence_count(batch, segments));
  std::vector<CrossingSequence> all;
  for_each_sequence(batch, length, segments, [&](const Sequence& s) {
    const bool continues = cut.continues(s.row), goes_on = cut.goes_on(s.row);
    if (continues || goes_on)
      all.push_back({s, continues ? cut.before(s.row) : 0, continues, goes_on});
  });
  return all;
}

/// visit(begin, end, segments) for the positions of a packed row between those that cross.
template <class Visit>
void for_each_run_between(const std::vector<CrossingSequence>& crossing, Index length,
                          Segments segments, Visit&& visit) {
  if (segments.empty()) return;  // all sequences cross, or none does
  std::size_t first = 0;
  const auto add_run = [&](std::size_t last) {
    if (segments[first] < segments[last]) {
      std::vector<Index> own(segments.begin() + static_cast<std::ptrdiff_t>(first),
                             segments.begin() + static_cast<std::ptrdiff_t>(last) + 1);
      for (Index& offset : own) offset -= segments[first];
      visit(segments[first], segments[last], Segments(own));
    }
  };
  for (const CrossingSequence& s : crossing) {
    add_run(static_cast<std::size_t>(s.place.row));
    first = static_cast<std::size_t>(s.place.row) + 1;
  }
  add_run(segments.size() - 1);
  static_cast<void>(length);
}

template <class V>
std::span<std::byte> bytes_of(const V& view, Index count) {
  return {reinterpret_cast<std::byte*>(view.data()),
          static_cast<std::size_t>(count) * sizeof(typename V::Value)};
}

/// The keys, or values, of sequences from their beginning on: [1, before + here, H, K] each.
template <class T, class Space>
using Gathered = std::vector<View<T, 4, Space>>;

/// Receives what lies on earlier ranks, adds what is here, and sends all of it on.
template <class B, class Frame, class T, std::size_t N>
[[gnu::cold, gnu::noinline]] std::array<Gathered<T, typename B::Space>, N> gather_sequences(
    Context<B>& ctx, const SequenceCut& cut, Frame& frame,
    const std::vector<CrossingSequence>& crossing,
    const std::array<View<const T, 4, typename B::Space>, N>& here) {
  using Space = typename B::Space;
  std::array<Gathered<T, Space>, N> all;
  std::size_t received = 0, sent = 0;
  for (const CrossingSequence& s : crossing)
    for (std::size_t i = 0; i < N; ++i) {
      const Index heads = here[i].extent(2), width = here[i].extent(3);
      all[i].push_back(frame.template tensor<T>(Index{1}, s.length(), heads, width));
      const auto row = static_cast<std::size_t>(heads * width) * sizeof(T);
      received += s.continues ? row * static_cast<std::size_t>(s.before) : 0;
      sent += s.goes_on ? row * static_cast<std::size_t>(s.length()) : 0;
    }
  std::vector<std::byte> message(received);
  if (received > 0) cut.ranks->receive(message, cut.ranks->rank() - 1);
  const std::byte* at = message.data();
  for (std::size_t j = 0; j < crossing.size(); ++j)
    for (std::size_t i = 0; i < N; ++i) {
      const CrossingSequence& s = crossing[j];
      const auto& whole = all[i][j];
      const std::span<std::byte> earlier =
          bytes_of(whole, s.before * whole.extent(2) * whole.extent(3));
      Space::copy(earlier.data(), at, earlier.size());
      at += earlier.size();
      if (s.place.begin < s.place.end)
        rearrange(ctx, Rearrange<T, Space>{.x = stretch_in(here[i], s.place).select(0, 0),
                                           .y = whole.select(0, 0).slice(0, s.before, s.length())});
    }
  if (sent == 0) return all;
  message.resize(sent);
  std::byte* to = message.data();
  for (std::size_t j = 0; j < crossing.size(); ++j)
    for (std::size_t i = 0; i < N && crossing[j].goes_on; ++i) {
      const std::span<std::byte> whole = bytes_of(all[i][j], all[i][j].size());
      Space::copy(to, whole.data(), whole.size());
      to += whole.size();
    }
  cut.ranks->send(message, cut.ranks->rank() + 1);
  return all;
}

/// Adds the gradients from later ranks to those of gathered sequences, sends earlier ranks theirs,
/// and writes what is this rank's.
template <class B, class T, std::size_t N>
[[gnu::cold, gnu::noinline]] void scatter_gradients(
    Context<B>& ctx, const SequenceCut& cut, const std::vector<CrossingSequence>& crossing,
    const std::array<Gathered<T, typename B::Space>, N>& gradients,
    const std::array<View<T, 4, typename B::Space>, N>& here) {
  using Space = typename B::Space;
  std::size_t received = 0, sent = 0;
  for (std::size_t j = 0; j < crossing.size(); ++j)
    for (std::size_t i = 0; i < N; ++i) {
      const auto& whole = gradients[i][j];
      const Index row = whole.extent(2) * whole.extent(3);
      if (crossing[j].goes_on) received += bytes_of(whole, whole.size()).size();
      if (crossing[j].continues) sent += bytes_of(whole, crossing[j].before * row).size();
    }
  std::vector<std::byte> message(received);
  if (received > 0) cut.ranks->receive(message, cut.ranks->rank() + 1);
  const std::byte* from = message.data();
  for (std::size_t j = 0; j < crossing.size(); ++j)
    for (std::size_t i = 0; i < N && crossing[j].goes_on; ++i) {
      const auto& whole = gradients[i][j];
      if (whole.size() == 0) continue;
      auto frame = ctx.workspace().frame();
      const auto more = frame.template tensor<T>(whole.size());
      const std::span<std::byte> bytes = bytes_of(more, more.size());
      Space::copy(bytes.data(), from, bytes.size());
      from += bytes.size();
      const View<T, 1, Space> sum = whole.flatten();
      add(ctx, Add<T, Space>{.a = sum, .b = more, .y = sum});
    }
  message.resize(sent);
  std::byte* to = message.data();
  for (std::size_t j = 0; j < crossing.size(); ++j)
    for (std::size_t i = 0; i < N; ++i) {
      const CrossingSequence& s = crossing[j];
      const auto& whole = gradients[i][j];
      if (s.continues) {
        const auto earlier = bytes_of(whole, s.before * whole.extent(2) * whole.extent(3));
        Space::copy(to, earlier.data(), earlier.size());
        to += earlier.size();
      }
      if (s.place.begin < s.place.end)
        rearrange(ctx, Rearrange<T, Space>{.x = whole.select(0, 0).slice(0, s.before, s.length()),
                                           .y = stretch_in(here[i], s.place).select(0, 0)});
    }
  if (sent > 0) cut.ranks->send(message, cut.ranks->rank() - 1);
}

/// Throws  ArgumentError  for a call on keys of an earlier call
template <class Call>
void require_no_cache(const Call& a) {
  if (!a.cached.empty() || a.k.extent(1) != a.q.extent(1))
    throw ArgumentError(
        "attention: sequences that lie across ranks cannot go on from cached keys and values");
}

/// run(call) for the sequences that cross, one by one on all their keys, and for the runs between.
template <class B, class Call, class Run>
[[gnu::cold, gnu::noinline]] void attend_across(Context<B>& ctx, const Call& a, Run run) {
  using T = ScalarOfCall<Call>;
  require_no_cache(a);
  const SequenceCut cut = *ctx.sequence_cut();
  const SequenceCutScope<B> whole(ctx, {});
  const auto crossing =
      crossing_sequences(cut, Call::name, a.q.extent(0), a.q.extent(1), a.segments);
  if (crossing.empty()) return run(ctx, a);
  auto frame = ctx.workspace().frame();
  const auto keys =
      gather_sequences<B, decltype(frame), T, 2>(ctx, cut, frame, crossing, {a.k, a.v});
  const auto run_part = [&](Index batch, Index begin, Index end, Call part) {
    part.q = stretch_in(a.q, batch, begin, end);
    part.y = stretch_in(a.y, batch, begin, end);
    if (a.log_sum) part.log_sum = stretch_in(a.log_sum, batch, begin, end);
    run(ctx, part);
  };
  for (std::size_t j = 0; j < crossing.size(); ++j) {
    const Sequence& s = crossing[j].place;
    Call part{.scale = a.scale};
    part.k = keys[0][j];
    part.v = keys[1][j];
    if (s.begin < s.end) run_part(s.batch, s.begin, s.end, part);
  }
  for_each_run_between(crossing, a.q.extent(1), a.segments,
                       [&](Index begin, Index end, Segments segments) {
                         Call part{.scale = a.scale};
                         part.k = stretch_in(a.k, 0, begin, end);
                         part.v = stretch_in(a.v, 0, begin, end);
                         part.segments = segments;
                         run_part(0, begin, end, part);
                       });
}

/// The same for the gradient; keys and values are gathered again.
template <class Op, class B, class Gradient, class Run>
[[gnu::cold, gnu::noinline]] void attend_across_backward(Context<B>& ctx, const Gradient& g,
                                                         Run run) {
  using T = ScalarOfCall<Op>;
  using Space = typename B::Space;
  const Op& a = g.forward;
  require_no_cache(a);
  const SequenceCut cut = *ctx.sequence_cut();
  const SequenceCutScope<B> whole(ctx, {});
  const auto crossing = crossing_sequences(cut, Op::name, a.q.extent(0), a.q.extent(1), a.segments);
  if (crossing.empty()) return run(ctx, g);
  auto frame = ctx.workspace().frame();
  const auto keys =
      gather_sequences<B, decltype(frame), T, 2>(ctx, cut, frame, crossing, {a.k, a.v});
  std::array<Gathered<T, Space>, 2> gradients;
  const auto run_part = [&](Index batch, Index begin, Index end, Gradient part) {
    part.forward.q = stretch_in(a.q, batch, begin, end);
    part.y = stretch_in(g.y, batch, begin, end);
    part.log_sum = stretch_in(g.log_sum, batch, begin, end);
    part.dy = stretch_in(g.dy, batch, begin, end);
    part.dq = stretch_in(g.dq, batch, begin, end);
    run(ctx, part);
  };
  for (std::size_t j = 0; j < crossing.size(); ++j) {
    const Sequence& s = crossing[j].place;
    for (auto& gradient : gradients)
      gradient.push_back(frame.template tensor<T>(keys[0][j].extents()));
    Gradient part{};
    part.forward.scale = a.scale;
    part.forward.k = keys[0][j];
    part.forward.v = keys[1][j];
    part.dk = gradients[0][j];
    part.dv = gradients[1][j];
    if (s.begin < s.end) {
      run_part(s.batch, s.begin, s.end, part);
    } else {
      zero_across(ctx, part.dk);
      zero_across(ctx, part.dv);
    }
  }
  scatter_gradients<B, T, 2>(ctx, cut, crossing, gradients, {g.dk, g.dv});
  for_each_run_between(crossing, a.q.extent(1), a.segments,
                       [&](Index begin, Index end, Segments segments) {
                         Gradient part{};
                         part.forward.scale = a.scale;
                         part.forward.k = stretch_in(a.k, 0, begin, end);
                         part.forward.v = stretch_in(a.v, 0, begin, end);
                         part.forward.segments = segments;
                         part.dk = stretch_in(g.dk, 0, begin, end);
                         part.dv = stretch_in(g.dv, 0, begin, end);
                         run_part(0, begin, end, part);
                       });
}

/// Rotations at the positions of the sequences on this rank.
template <class B, class Call, class Run>
[[gnu::cold, gnu::noinline]] void rotate_across(Context<B>& ctx, const Call& a, Run run) {
  const SequenceCut cut = *ctx.sequence_cut();
  const Index rows = sequence_count(a.x.extent(0), a.segments);
  require_parts(cut, Call::name, rows);
  const SequenceCutScope<B> whole(ctx, {});
  std::vector<std::int64_t> positions;
  for (Index row = 0; row < rows; ++row)
    positions.push_back(static_cast<std::int64_t>(cut.before(row)) +
                        (a.positions.empty() ? static_cast<std::int64_t>(a.position)
                                             : a.positions[static_cast<std::size_t>(row)]));
  Call part = a;
  part.positions = positions;
  run(ctx, part);
}

/// The sums of scores with all keys of a sequence, of which earlier ranks hold some: queries of
/// zeros stand where they are.
template <class B, class Call, class Run>
[[gnu::cold, gnu::noinline]] void score_norm_across(Context<B>& ctx, const Call& a, Run run) {
  using T = ScalarOfCall<Call>;
  using Space = typename B::Space;
  const SequenceCut cut = *ctx.sequence_cut();
  const SequenceCutScope<B> whole(ctx, {});
  const auto crossing =
      crossing_sequences(cut, Call::name, a.q.extent(0), a.q.extent(1), a.segments);
  if (crossing.empty()) return run(ctx, a);
  auto frame = ctx.workspace().frame();
  const auto keys = gather_sequences<B, decltype(frame), T, 1>(ctx, cut, frame, crossing, {a.k});
  for (std::size_t j = 0; j < crossing.size(); ++j) {
    const CrossingSequence& s = crossing[j];
    if (s.place.begin == s.place.end) continue;
    auto scratch = ctx.workspace().frame();
    const auto q = scratch.template tensor<T>(keys[0][j].extents());
    const auto y = scratch.template tensor<Wide<T>>(Index{1}, s.length(), a.y.extent(2));
    zero_across(ctx, q);
    rearrange(ctx, Rearrange<T, Space>{.x = stretch_in(a.q, s.place).select(0, 0),
                                       .y = q.select(0, 0).slice(0, s.before, s.length())});
    Call part{.log_decay = a.log_decay};
    part.q = q;
    part.k = keys[0][j];
    part.y = y;
    run(ctx, part);
    rearrange(ctx, Rearrange<Wide<T>, Space>{.x = y.slice(1, s.before, s.length()),
                                             .y = stretch_in(a.y, s.place)});
  }
  for_each_run_between(crossing, a.q.extent(1), a.segments,
                       [&](Index begin, Index end, Segments segments) {
                         Call part{.log_decay = a.log_decay};
                         part.q = stretch_in(a.q, 0, begin, end);
                         part.k = stretch_in(a.k, 0, begin, end);
                         part.y = stretch_in(a.y, 0, begin, end);
                         part.segments = segments;
                         run(ctx, part);
                       });
}

}  // namespace ssm::detail
