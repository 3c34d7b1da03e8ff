// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// Causal multi-head softmax attention over cached and new positions.
///   y[b,t,h] = Σ_{s ≤ T₀+t} softmax_s( scale · q[b,t,h]·k[b,s,h] ) · v[b,s,h]
/// where k, v hold T₀ earlier positions followed by the L new ones.
/// q, y        [B, L, H, K]        y overwritten; must not alias the inputs
/// k, v        [B, T₀ + L, H, K]
/// segments                        optional: B = 1, attention stays inside each segment; without
///                                 `cached` T₀ = 0
/// cached      [S], on the host    optional: how many earlier positions each of the S sequences
///                                 has, packed or not. Then k, v are [S, T, H, K]: row i holds the
///                                 cached[i] earlier positions of sequence i, its new ones, and
///                                 elements that nothing reads
/// log_sum     [B, L, H]           optional, overwritten: ln Σ exp of the scores, for the gradient
/// Cost    O(B·H·L·(T₀+L)·K), no L×L matrix in memory
/// Throws  ShapeError
/// Source  Vaswani et al. 2017 §3.2; Dao et al. 2022 for the recomputing gradient
template <class T, class Space>
struct Attention {
  double scale = 1;
  View<const T, 4, Space> q{};
  View<const T, 4, Space> k{};
  View<const T, 4, Space> v{};
  Segments segments{};
  std::span<const std::int64_t> cached{};
  View<T, 4, Space> y{};
  View<T, 3, Space> log_sum{};
};

/// Where the keys and values of a sequence are: its query j sees the positions begin …
/// begin + cached + j of row `batch`.
struct AttentionKeys {
  Index batch;
  Index begin;
  Index cached;
};

/// Where the keys and values of a sequence are in `a`.
template <class T, class Space>
AttentionKeys keys_of(const Attention<T, Space>& a, const Sequence& sequence) {
  if (a.cached.empty()) return {sequence.batch, sequence.begin, a.k.extent(1) - a.q.extent(1)};
  return {sequence.row, 0, static_cast<Index>(a.cached[static_cast<std::size_t>(sequence.row)])};
}

/// The vector–Jacobian product of Attention; dq, dk, dv overwritten (dk, dv for cached positions
/// too, and zero where nothing reads k and v).
template <class T, class Space>
struct AttentionBackward {
  Attention<T, Space> forward{};      // reads scale, q, k, v, segments, cached
  View<const T, 4, Space> y{};        // as the forward call wrote it
  View<const T, 3, Space> log_sum{};  // likewise
  View<const T, 4, Space> dy{};
  View<T, 4, Space> dq{};
  View<T, 4, Space> dk{};
  View<T, 4, Space> dv{};
};

/// Rotates pairs of channels by an angle that grows with the position (rotary embedding, half-split
/// pairs).
///   (x[j], x[j+r/2]) → rotation by direction · position · base^(−2j/r),  j < r/2
/// Channels from r on stay.
/// x, y        [B, L, H, K]   y overwritten; may be the same memory as x
/// position    of the first row of every sequence, of every segment where rows are packed
/// positions   [S], on the host    optional: the same for each sequence, in place of `position`
/// dimension   r ≤ K, even
/// direction   +1, or −1 for the gradient
/// Throws  ShapeError
/// Source  Su et al. 2021 (RoFormer) §3.2.2, in GPT-NeoX's channel order
template <class T, class Space>
struct Rotary {
  Index dimension = 0;
  double base = 10000;
  Index position = 0;
  std::span<const std::int64_t> positions{};
  int direction = 1;
  Segments segments{};
  View<const T, 4, Space> x{};
  View<T, 4, Space> y{};
};

/// The position of a sequence's first row.
template <class T, class Space>
Index first_position(const Rotary<T, Space>& a, const Sequence& sequence) {
  if (a.positions.empty()) return a.position;
  return static_cast<Index>(a.positions[static_cast<std::size_t>(sequence.row)]);
}

/// Backends that have the primitive Attention.
template <class B, class T = float>
concept HasAttention = requires(Context<B>& ctx, const Attention<T, typename B::Space>& a,
                                const AttentionBackward<T, typename B::Space>& g,
                                const Rotary<T, typename B::Space>& r) {
  B::attention(ctx, a);
  B::attention_backward(ctx, g);
  B::rotary(ctx, r);
};

namespace detail {
/// Throws  ShapeError  unless there is one number, not negative, for each sequence
inline void require_positions(const char* op, const char* operand,
                              std::span<const std::int64_t> positions, Index sequences) {
  if (positions.empty()) return;
  if (static_cast<Index>(positions.size()) != sequences)
    throw ShapeError(op, operand,
                     "must have " + std::to_string(sequences) +
                         " elements, one for each sequence, got " +
                         std::to_string(positions.size()));
  for (const std::int64_t position : positions)
    if (position < 0)
      throw ShapeError(op, operand, "must not be negative, got " + std::to_string(position));
}

template <class T, class Space>
void require_operands(const Attention<T, Space>& a) {
  const char* op = "attention";
  require_extents(op, "q", a.q, {dyn, dyn, dyn, dyn});
  const auto shape = a.q.extents().to_array();
  require_segments(op, a.segments, shape[0], shape[1]);
  const Index sequences = sequence_count(shape[0], a.segments);
  require_positions(op, "cached", a.cached, sequences);
  const Index rows = a.cached.empty() ? shape[0] : sequences;
  require_extents(op, "k", a.k, {rows, dyn, shape[2], shape[3]});
  require_extents(op, "v", a.v, a.k.extents().to_array());
  const Index total = a.k.extent(1);
  const auto refuse = [&](Index queries) {
    throw ShapeError(
        op, "k",
        "has " + std::to_string(total) + " positions for " + std::to_string(queries) + " queries");
  };
  if (a.cached.empty()) {
    if (total < shape[1] || (!a.segments.empty() && total != shape[1])) refuse(shape[1]);
  } else {
    for_each_sequence(shape[0], shape[1], a.segments, [&](const Sequence& s) {
      const Index cached = keys_of(a, s).cached;
      if (cached > total || s.end - s.begin > total - cached) refuse(cached + s.end - s.begin);
    });
  }
  require_extents_if_given(op, "log_sum", a.log_sum, {shape[0], shape[1], shape[2]});
}
}  // namespace detail

/// Computes Attention, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void attention(Context<B>& ctx, const Attention<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("attention", "y", a.y, a.q.extents().to_array());
  B::attention(ctx, a);
}

/// Computes AttentionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void attention_backward(Context<B>& ctx, const AttentionBackward<T, typename B::Space>& g) {
  const char* op = "attention_backward";
  detail::require_operands(g.forward);
  const auto shape = g.forward.q.extents().to_array();
  require_extents(op, "y", g.y, shape);
  require_extents(op, "log_sum", g.log_sum, {shape[0], shape[1], shape[2]});
  require_extents(op, "dy", g.dy, shape);
  require_extents(op, "dq", g.dq, shape);
  require_extents(op, "dk", g.dk, g.forward.k.extents().to_array());
  require_extents(op, "dv", g.dv, g.forward.k.extents().to_array());
  B::attention_backward(ctx, g);
}

/// Computes Rotary, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void rotary(Context<B>& ctx, const Rotary<T, typename B::Space>& a) {
  require_extents("rotary", "x", a.x, {dyn, dyn, dyn, dyn});
  require_extents("rotary", "y", a.y, a.x.extents().to_array());
  if (a.dimension < 0 || a.dimension > a.x.extent(3) || a.dimension % 2 != 0)
    throw ShapeError("rotary", "dimension",
                     "must be even and at most the head width " + std::to_string(a.x.extent(3)) +
                         ", got " + std::to_string(a.dimension));
  require_segments("rotary", a.segments, a.x.extent(0), a.x.extent(1));
  detail::require_positions("rotary", "positions", a.positions,
                            sequence_count(a.x.extent(0), a.segments));
  B::rotary(ctx, a);
}

}  // namespace ssm
