// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "ssm/layer/layer.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// What attention remembers of B sequences.
/// k, v       [T, B, heads, K]    rotated keys and values, time first, so that a step appends in
///                                place
/// position   [B], on the host    how many of the T rows each sequence has; nothing reads the rows
///                                behind them, which are zero in a state that began empty
template <class T, class Space = HostSpace>
struct KeyValueState {
  DynamicTensor<T, 4, Space> k;
  DynamicTensor<T, 4, Space> v;
  DynamicTensor<std::int64_t, 1, HostSpace> position;
};

/// How attention appends to a KeyValueState and differentiates by it. Sequences that are not packed
/// and have all of the T rows each are copied in one call, others one by one.
class KeyValueCache {
 public:
  KeyValueCache(Index heads, Index width)
      : heads_(heads), width_(width), channels_(heads * width) {}

  /// No positions yet, and room for `reserve` of them.
  template <class T, class Space>
  KeyValueState<T, Space> empty(Index sequences, Index reserve) const {
    KeyValueState<T, Space> state;
    const DynamicExtents<4> extents{Index{0}, sequences, heads_, width_};
    state.k.extend(extents, reserve * sequences * channels_);
    state.v.extend(extents, reserve * sequences * channels_);
    state.position.reset({sequences});
    return state;
  }
  static void for_each_state(auto&& visit, auto&... state) {
    visit(std::string("k"), state.k...);
    visit(std::string("v"), state.v...);
    visit(std::string("position"), state.position...);
  }

  /// What is cached before a call of [B, L, D], and how far the cache reaches afterwards.
  struct Past {
    std::span<const std::int64_t> position{};  // of each sequence; empty without an initial state
    Segments segments{};
    Index sequences = 0;
    Index length = 0;     // L
    Index rows = 0;       // of the initial cache
    Index total = 0;      // of the final one
    bool is_even = true;  // not packed, and every sequence has `rows` positions

    Index of(Index row) const {
      return position.empty() ? 0 : static_cast<Index>(position[static_cast<std::size_t>(row)]);
    }
    Index length_of(Index row) const {
      const Sequence s = sequence_at(row, length, segments);
      return s.end - s.begin;
    }
    void advance(DynamicTensor<std::int64_t, 1, HostSpace>& positions) const {
      for (Index row = 0; row < sequences; ++row) positions(row) += length_of(row);
    }
  };
  /// Throws  ShapeError  for a state of other extents, or with positions that its rows do not hold
  template <class State>
  Past cached_before(const State* initial, Index batch, Index length, Segments segments) const {
    require_segments("CausalAttention", segments, batch, length);
    Past past{.segments = segments,
              .sequences = sequence_count(batch, segments),
              .length = length,
              .is_even = segments.empty()};
    if (initial != nullptr) {
      const char* name = "CausalAttention";
      require_extents(name, "state k", initial->k.view(), {dyn, past.sequences, heads_, width_});
      require_extents(name, "state v", initial->v.view(), initial->k.extents().to_array());
      require_extents(name, "state position", initial->position.view(), {past.sequences});
      past.rows = initial->k.extent(0);
      past.position = {initial->position.data(), static_cast<std::size_t>(past.sequences)};
    }
    past.total = past.rows;
    for_each_sequence(batch, length, segments, [&](const Sequence& s) {
      const Index cached = past.of(s.row);
      if (cached < 0 || cached > past.rows)
        throw ShapeError("CausalAttention", "state position",
                         message({"must lie between 0 and the ", past.rows,
                                  " rows of the cache, got ", cached}));
      past.total = std::max(past.total, cached + s.end - s.begin);
      past.is_even = past.is_even && cached == past.rows;
    });
    if (past.is_even) past.total = past.rows + length;  // of no sequence too
    return past;
  }

  /// A cache during a call: [sequences, total, channels], and the positions before the call.
  template <class T, class Space>
  struct Cache {
    View<T, 3, Space> k;
    View<T, 3, Space> v;
    std::span<const std::int64_t> position;
  };
  /// The initial cache with room for what comes, in the final state or, if that is not wanted, in
  /// scratch memory.
  template <class T, class B, class Frame>
  Cache<T, typename B::Space> open(
      Context<B>& ctx, Frame& frame, const Past& past,
      const SequenceOptions<KeyValueState<T, typename B::Space>>& options) const {
    using Space = typename B::Space;
    const DynamicExtents<4> extents(past.total, past.sequences, heads_, width_);
    Cache<T, Space> cache{.k = {}, .v = {}, .position = past.position};
    View<T, 4, Space> k, v;
    if (options.final_state != nullptr) {
      KeyValueState<T, Space>& state = *options.final_state;
      if (options.initial_state == nullptr)
        state.position.reset({past.sequences});
      else if (options.initial_state != &state)
        copy_state<KeyValueCache>(ctx, *options.initial_state, state);
      state.k.extend(extents);
      state.v.extend(extents);
      k = state.k;
      v = state.v;
      cache.position = {state.position.data(), static_cast<std::size_t>(past.sequences)};
    } else {
      k = frame.template tensor<T>(extents);
      v = frame.template tensor<T>(extents);
      copy_rows<T>(ctx, View<const T, 4, Space>(options.initial_state->k), k);
      copy_rows<T>(ctx, View<const T, 4, Space>(options.initial_state->v), v);
    }
    const Index row = past.sequences * channels_;
    if (!past.is_even && past.total > past.rows)
      for (const auto& all : {k, v})  // behind the shorter sequences
        fill(ctx, Fill<T, Space>{.y = all.flatten().slice(0, past.rows * row, past.total * row)});
    cache.k = by_batch<T, Space>(k);
    cache.v = by_batch<T, Space>(v);
    return cache;
  }
  /// Writes the new rows of every sequence behind its cached ones.
  template <class T, class B>
  void append(Context<B>& ctx, const Past& past,
              std::type_identity_t<View<const T, 3, typename B::Space>> rows,
              std::type_identity_t<View<T, 3, typename B::Space>> all) const {
    match_rows(past, rows, all, [&](const auto& from, const auto& to) {
      rearrange(ctx, Rearrange<T, typename B::Space>{.x = from, .y = to});
    });
  }
  /// The other way: reads the new rows.
  template <class T, class B>
  void take(Context<B>& ctx, const Past& past,
            std::type_identity_t<View<const T, 3, typename B::Space>> all,
            std::type_identity_t<View<T, 3, typename B::Space>> rows) const {
    match_rows(past, rows, all, [&](const auto& to, const auto& from) {
      rearrange(ctx, Rearrange<T, typename B::Space>{.x = from, .y = to});
    });
  }

  /// Cached and new rows as [S, total, D].
  template <class T, class B, class Frame>
  View<const T, 3, typename B::Space> joined(Context<B>& ctx, Frame& frame, const Past& past,
                                             const DynamicTensor<T, 4, typename B::Space>& cache,
                                             View<const T, 3, typename B::Space> rows) const {
    using Space = typename B::Space;
    const View<T, 3, Space> all = frame.template tensor<T>(past.sequences, past.total, channels_);
    rearrange(ctx,
              Rearrange<T, Space>{.x = by_batch<const T, Space>(View<const T, 4, Space>(cache)),
                                  .y = all.slice(1, 0, past.rows)});
    append<T>(ctx, past, rows, all);
    return all;
  }

  /// Adds the gradient of the final cache to that of the joined rows or, without a cache, of the
  /// new ones.
  template <class T, class B>
  void add_final(Context<B>& ctx, const Past& past,
                 const DynamicTensor<T, 4, typename B::Space>& final_gradient,
                 std::type_identity_t<View<T, 3, typename B::Space>> gradient) const {
    using Space = typename B::Space;
    require_extents("CausalAttention", "gradient of the final state", final_gradient.view(),
                    {past.total, past.sequences, heads_, width_});
    const auto given = by_batch<const T, Space>(View<const T, 4, Space>(final_gradient));
    const auto add_rows = [&](const auto& to, const auto& from) {
      auto frame = ctx.workspace().frame();
      const View<T, 3, Space> sum = frame.template tensor<T>(to.extents());
      const View<T, 3, Space> more = frame.template tensor<T>(to.extents());
      rearrange(ctx, Rearrange<T, Space>{.x = to, .y = sum});
      rearrange(ctx, Rearrange<T, Space>{.x = from, .y = more});
      add(ctx, Add<T, Space>{.a = sum.flatten(), .b = more.flatten(), .y = sum.flatten()});
      rearrange(ctx, Rearrange<T, Space>{.x = sum, .y = to});
    };
    if (past.rows > 0)
      add_rows(gradient, given);
    else
      match_rows(past, gradient, given, add_rows);
  }

  /// The gradient of the initial cache: of the joined rows, but nothing where new rows were written
  /// over it.
  template <class T, class B>
  void write_initial(Context<B>& ctx, const Past& past,
                     std::type_identity_t<View<T, 3, typename B::Space>> gradient,
                     DynamicTensor<T, 4, typename B::Space>& initial_gradient) const {
    using Space = typename B::Space;
    initial_gradient.resize({past.rows, past.sequences, heads_, width_});
    if (past.rows == 0) return;
    const auto target = by_batch<T, Space>(View<T, 4, Space>(initial_gradient));
    rearrange(ctx, Rearrange<T, Space>{.x = gradient.slice(1, 0, past.rows), .y = target});
    if (past.is_even) return;
    auto frame = ctx.workspace().frame();
    const View<T, 3, Space> zero = frame.template tensor<T>(Index{1}, past.rows, channels_);
    fill(ctx, Fill<T, Space>{.y = zero.flatten()});
    for (Index row = 0; row < past.sequences; ++row) {
      const Index first = past.of(row);
      const Index end = std::min(past.rows, first + past.length_of(row));
      if (end > first)
        rearrange(ctx,
                  Rearrange<T, Space>{.x = zero.slice(1, 0, end - first),
                                      .y = target.slice(0, row, row + 1).slice(1, first, end)});
    }
  }

 private:
  /// The first rows of a cache, time first.
  template <class T, class B>
  void copy_rows(Context<B>& ctx, std::type_identity_t<View<const T, 4, typename B::Space>> from,
                 std::type_identity_t<View<T, 4, typename B::Space>> to) const {
    using Space = typename B::Space;
    rearrange(ctx, Rearrange<T, Space>{.x = by_batch<const T, Space>(from),
                                       .y = by_batch<T, Space>(to.slice(0, 0, from.extent(0)))});
  }

  /// Calls run(rows, the same positions in the cache [S, T, D]) for the new rows [B, L, D] of every
  /// sequence.
  template <class X, class Y, class Run>
  static void match_rows(const Past& past, const X& rows, const Y& all, Run&& run) {
    if (past.is_even) return run(rows, all.slice(1, past.rows, past.rows + rows.extent(1)));
    for_each_sequence(rows.extent(0), rows.extent(1), past.segments, [&](const Sequence& s) {
      const Index first = past.of(s.row);
      run(rows.slice(0, s.batch, s.batch + 1).slice(1, s.begin, s.end),
          all.slice(0, s.row, s.row + 1).slice(1, first, first + s.end - s.begin));
    });
  }

  /// A cache [T, B, heads, K] as [B, T, D].
  template <class T, class Space>
  View<T, 3, Space> by_batch(View<T, 4, Space> cache) const {
    return {cache.data(),
            {cache.extent(1), cache.extent(0), channels_},
            {cache.stride(1), cache.stride(0), 1}};
  }
  Index heads_;
  Index width_;
  Index channels_;
};

}  // namespace ssm
