// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// Linear attention whose memory fades, a fixed rate a head: retention, and linear attention where
/// log_decay is 0.
///   S_n = γ·S_{n−1} + k_n ⊗ v_n
///   y_n = q_n·S_n = Σ_{m≤n} γ^{n−m}·(q_n·k_m)·v_m  +  γ^{n+1}·q_n·S_{−1}
/// with γ = exp(log_decay[h]). Positions may be taken one by one, by chunks, or all together: the
/// results agree.
/// q, k            [B, L, H, K]
/// v               [B, L, H, V]
/// log_decay       [H]           not positive
/// chunk                         positions that are multiplied with each other directly; 0: the
///                               backend chooses
/// segments                      optional: B = 1, each segment is a sequence with a row of state
/// initial_state   [S, H, K, V]  optional, zero if left out
/// final_state     [S, H, K, V]  optional, overwritten; may be the same memory as initial_state
/// y               [B, L, H, V]  overwritten; must not alias the inputs
/// Cost    2·B·L·H·(2·K·V + chunk·(K + V)/2) operations, no L×L matrix in memory
/// Throws  ShapeError
/// Source  Sun et al. 2023 (RetNet) §2.1–2.3, without its normalizers
template <class T, class Space>
struct DecayedAttention {
  View<const T, 4, Space> q{};
  View<const T, 4, Space> k{};
  View<const T, 4, Space> v{};
  View<const T, 1, Space> log_decay{};
  Index chunk = 0;
  Segments segments{};
  View<const T, 4, Space> initial_state{};
  View<T, 4, Space> final_state{};
  View<T, 4, Space> y{};
};

/// The vector–Jacobian product of DecayedAttention; everything overwritten. Decay rates are
/// constants.
template <class T, class Space>
struct DecayedAttentionBackward {
  DecayedAttention<T, Space> forward{};  // y and final_state are not read
  View<const T, 4, Space> dy{};
  View<const T, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 4, Space> dq{};
  View<T, 4, Space> dk{};
  View<T, 4, Space> dv{};
  View<T, 4, Space> dinitial_state{};  // optional
};

/// The sum of the absolute scores of every query, from a zero state: what the published training
/// code divides by.
///   y[b,n,h] = Σ_{m≤n} |γ^{n−m}·q_n·k_m|
/// q, k        [B, L, H, K]
/// log_decay   [H]
/// y           [B, L, H]      overwritten
/// Cost    B·H·L²·K operations, no L×L matrix in memory
/// Throws  ShapeError
template <class T, class Space>
struct DecayedScoreNorm {
  View<const T, 4, Space> q{};
  View<const T, 4, Space> k{};
  View<const T, 1, Space> log_decay{};
  Segments segments{};
  View<T, 3, Space> y{};
};

/// By how much retention's published normalizers enlarge the eps of the head norm behind it, at
/// absolute position n.
///   D_n = Σ_{j≤n} γ^j
///   y[b,t,h] = D_n,  or D_n·A_n² with A_n = clamp(score_norm/√D_n, 1, 5·10⁴)
/// log_decay    [H]
/// position     [S]         optional: absolute position of each sequence's first row, zero if left
///                          out
/// score_norm   [B, L, H]   optional
/// y            [B, L, H]   overwritten; may be the same memory as score_norm
/// Throws  ShapeError
/// Source  Sun et al. 2023 (RetNet) §2.4: dividing by √D_n and A_n before a norm is dividing its
///         eps instead
template <class T, class Space>
struct RetentionScale {
  View<const T, 1, Space> log_decay{};
  View<const std::int64_t, 1, Space> position{};
  Segments segments{};
  View<const T, 3, Space> score_norm{};
  View<T, 3, Space> y{};
};

/// Backends that have the primitive DecayedAttention.
template <class B, class T = float>
concept HasDecayedAttention = requires(Context<B>& ctx,
                                       const DecayedAttention<T, typename B::Space>& a,
                                       const DecayedAttentionBackward<T, typename B::Space>& g,
                                       const DecayedScoreNorm<T, typename B::Space>& n,
                                       const RetentionScale<T, typename B::Space>& s) {
  B::decayed_attention(ctx, a);
  B::decayed_attention_backward(ctx, g);
  B::decayed_score_norm(ctx, n);
  B::retention_scale(ctx, s);
};

namespace detail {
/// Returns the extents of a state. Throws ShapeError.
template <class T, class Space>
std::array<Index, 4> require_operands(const DecayedAttention<T, Space>& a) {
  const char* op = "decayed_attention";
  require_extents(op, "q", a.q, {dyn, dyn, dyn, dyn});
  const auto shape = a.q.extents().to_array();
  require_extents(op, "k", a.k, shape);
  require_extents(op, "v", a.v, {shape[0], shape[1], shape[2], dyn});
  require_extents(op, "log_decay", a.log_decay, {shape[2]});
  require_segments(op, a.segments, shape[0], shape[1]);
  if (a.chunk < 0) throw ShapeError(op, "chunk", "is " + std::to_string(a.chunk));
  const std::array<Index, 4> states{sequence_count(shape[0], a.segments), shape[2], shape[3],
                                    a.v.extent(3)};
  require_extents_if_given(op, "initial_state", a.initial_state, states);
  require_extents_if_given(op, "final_state", a.final_state, states);
  return states;
}
}  // namespace detail

/// Computes DecayedAttention, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_attention(Context<B>& ctx, const DecayedAttention<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("decayed_attention", "y", a.y, a.v.extents().to_array());
  B::decayed_attention(ctx, a);
}

/// Computes DecayedAttentionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_attention_backward(Context<B>& ctx,
                                const DecayedAttentionBackward<T, typename B::Space>& g) {
  const char* op = "decayed_attention_backward";
  const auto states = detail::require_operands(g.forward);
  const auto keys = g.forward.q.extents().to_array();
  const auto values = g.forward.v.extents().to_array();
  require_extents(op, "dy", g.dy, values);
  require_extents_if_given(op, "dfinal_state", g.dfinal_state, states);
  require_extents(op, "dq", g.dq, keys);
  require_extents(op, "dk", g.dk, keys);
  require_extents(op, "dv", g.dv, values);
  require_extents_if_given(op, "dinitial_state", g.dinitial_state, states);
  B::decayed_attention_backward(ctx, g);
}

/// Computes DecayedScoreNorm, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_score_norm(Context<B>& ctx, const DecayedScoreNorm<T, typename B::Space>& a) {
  const char* op = "decayed_score_norm";
  require_extents(op, "q", a.q, {dyn, dyn, dyn, dyn});
  const auto shape = a.q.extents().to_array();
  require_extents(op, "k", a.k, shape);
  require_extents(op, "log_decay", a.log_decay, {shape[2]});
  require_segments(op, a.segments, shape[0], shape[1]);
  require_extents(op, "y", a.y, {shape[0], shape[1], shape[2]});
  B::decayed_score_norm(ctx, a);
}

/// Computes RetentionScale, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void retention_scale(Context<B>& ctx, const RetentionScale<T, typename B::Space>& a) {
  const char* op = "retention_scale";
  require_extents(op, "y", a.y, {dyn, dyn, dyn});
  const auto shape = a.y.extents().to_array();
  require_extents(op, "log_decay", a.log_decay, {shape[2]});
  require_segments(op, a.segments, shape[0], shape[1]);
  require_extents_if_given(op, "position", a.position, {sequence_count(shape[0], a.segments)});
  require_extents_if_given(op, "score_norm", a.score_norm, shape);
  B::retention_scale(ctx, a);
}

}  // namespace ssm
