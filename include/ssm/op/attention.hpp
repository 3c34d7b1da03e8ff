// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct AttentionBackward;

namespace detail {
/// Throws  ShapeError  unless there is one number, not negative, for each sequence
inline void require_positions(const char* op, const char* operand,
                              std::span<const std::int64_t> positions, Index sequences) {
  if (positions.empty()) return;
  if (static_cast<Index>(positions.size()) != sequences)
    throw ShapeError(op, operand,
                     message({"must have ", sequences, " elements, one for each sequence, got ",
                              positions.size()}));
  for (const std::int64_t position : positions)
    if (position < 0)
      throw ShapeError(op, operand, message({"must not be negative, got ", position}));
}
}  // namespace detail

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
  View<Wide<T>, 3, Space> log_sum{};

  static constexpr const char* name = "attention";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = AttentionBackward<T, Space>;
    visit(input("q", "BLHK").with_gradient(), &Attention::q, &Gradient::dq);
    visit(input("k", "RTHK").with_gradient(), &Attention::k, &Gradient::dk);
    visit(input("v", "RTHK").with_gradient(), &Attention::v, &Gradient::dv);
    visit(output("y", "BLHK"), &Attention::y, &Gradient::dy);
    visit(output("log_sum", "BLH").optional(), &Attention::log_sum, nullptr);
    visit(again("y", "BLHK"), &Attention::y, &Gradient::y);
    visit(again("log_sum", "BLH"), &Attention::log_sum, &Gradient::log_sum);
  }
  void fix_extents(ExtentsByLetter& n) const {
    if (q) n.set('R', cached.empty() ? q.extent(0) : sequence_count(q.extent(0), segments));
  }
  void require_rest(const ExtentsByLetter& n) const {
    detail::require_positions(name, "cached", cached, n['S']);
    const auto refuse = [&](Index queries) {
      n.refuse("k", message({"has ", n['T'], " positions for ", queries, " queries"}));
    };
    if (cached.empty()) {
      if (n['T'] < n['L'] || (!segments.empty() && n['T'] != n['L'])) refuse(n['L']);
      return;
    }
    for_each_sequence(n['B'], n['L'], segments, [&](const Sequence& s) {
      const auto earlier = static_cast<Index>(cached[static_cast<std::size_t>(s.row)]);
      if (earlier > n['T'] || s.end - s.begin > n['T'] - earlier) refuse(earlier + s.end - s.begin);
    });
  }
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
  Attention<T, Space> forward{};            // reads scale, q, k, v, segments, cached
  View<const T, 4, Space> y{};              // as the forward call wrote it
  View<const Wide<T>, 3, Space> log_sum{};  // likewise
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

  static constexpr const char* name = "rotary";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "BLHK"), &Rotary::x, nullptr);
    visit(output("y", "BLHK"), &Rotary::y, nullptr);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (dimension < 0 || dimension > n['K'] || dimension % 2 != 0)
      n.refuse("dimension",
               message({"must be even and at most the head width ", n['K'], ", got ", dimension}));
    detail::require_positions(name, "positions", positions, n['S']);
  }
};

/// The position of a sequence's first row.
template <class T, class Space>
Index first_position(const Rotary<T, Space>& a, const Sequence& sequence) {
  if (a.positions.empty()) return a.position;
  return static_cast<Index>(a.positions[static_cast<std::size_t>(sequence.row)]);
}

/// Backends that have the primitive Attention.
template <class B, class T = float>
concept HasAttention = requires(Context<B>& ctx, const Attention<Wide<T>, typename B::Space>& a,
                                const AttentionBackward<Wide<T>, typename B::Space>& g,
                                const Rotary<Wide<T>, typename B::Space>& r) {
  B::attention(ctx, a);
  B::attention_backward(ctx, g);
  B::rotary(ctx, r);
};

/// Computes Attention, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void attention(Context<B>& ctx, const Attention<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::attention(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::attention(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { attention(ctx, wide); });
  }
}

/// Computes AttentionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void attention_backward(Context<B>& ctx, const AttentionBackward<T, typename B::Space>& g) {
  require_gradients<Attention<T, typename B::Space>>(g);
  if constexpr (requires { B::attention_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::attention_backward(ctx, g);
  } else {
    detail::run_wide_gradient<Attention>(ctx, g,
                                         [&](const auto& wide) { attention_backward(ctx, wide); });
  }
}

/// Computes Rotary, whose docstring says the rest.
template <class B, class T>
  requires HasAttention<B, T>
void rotary(Context<B>& ctx, const Rotary<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::rotary(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::rotary(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { rotary(ctx, wide); });
  }
}

}  // namespace ssm
