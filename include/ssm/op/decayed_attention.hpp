// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct DecayedAttentionBackward;

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
  View<const Wide<T>, 1, Space> log_decay{};
  Index chunk = 0;
  Segments segments{};
  View<const Wide<T>, 4, Space> initial_state{};
  View<Wide<T>, 4, Space> final_state{};
  View<T, 4, Space> y{};

  static constexpr const char* name = "decayed_attention";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = DecayedAttentionBackward<T, Space>;
    visit(input("q", "BLHK").with_gradient(), &DecayedAttention::q, &Gradient::dq);
    visit(input("k", "BLHK").with_gradient(), &DecayedAttention::k, &Gradient::dk);
    visit(input("v", "BLHV").with_gradient(), &DecayedAttention::v, &Gradient::dv);
    visit(input("log_decay", "H"), &DecayedAttention::log_decay, nullptr);
    visit(ssm::initial_state("initial_state", "SHKV"), &DecayedAttention::initial_state,
          &Gradient::dinitial_state);
    visit(ssm::final_state("final_state", "SHKV"), &DecayedAttention::final_state,
          &Gradient::dfinal_state);
    visit(output("y", "BLHV"), &DecayedAttention::y, &Gradient::dy);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (chunk < 0) n.refuse("chunk", message({"is ", chunk}));
  }
};

/// The vector–Jacobian product of DecayedAttention; everything overwritten. Decay rates are
/// constants.
template <class T, class Space>
struct DecayedAttentionBackward {
  DecayedAttention<T, Space> forward{};  // y and final_state are not read
  View<const T, 4, Space> dy{};
  View<const Wide<T>, 4, Space> dfinal_state{};  // optional, zero if left out
  View<T, 4, Space> dq{};
  View<T, 4, Space> dk{};
  View<T, 4, Space> dv{};
  View<Wide<T>, 4, Space> dinitial_state{};  // optional
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
  View<const Wide<T>, 1, Space> log_decay{};
  Segments segments{};
  View<Wide<T>, 3, Space> y{};

  static constexpr const char* name = "decayed_score_norm";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("q", "BLHK"), &DecayedScoreNorm::q, nullptr);
    visit(input("k", "BLHK"), &DecayedScoreNorm::k, nullptr);
    visit(input("log_decay", "H"), &DecayedScoreNorm::log_decay, nullptr);
    visit(output("y", "BLH"), &DecayedScoreNorm::y, nullptr);
  }
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

  static constexpr const char* name = "retention_scale";
  static constexpr void for_each_operand(auto&& visit) {
    visit(output("y", "BLH"), &RetentionScale::y, nullptr);
    visit(input("log_decay", "H"), &RetentionScale::log_decay, nullptr);
    visit(input("position", "S").optional(), &RetentionScale::position, nullptr);
    visit(input("score_norm", "BLH").optional(), &RetentionScale::score_norm, nullptr);
  }
};

/// Backends that have the primitive DecayedAttention.
template <class B, class T = float>
concept HasDecayedAttention =
    requires(Context<B>& ctx, const DecayedAttention<Wide<T>, typename B::Space>& a,
             const DecayedAttentionBackward<Wide<T>, typename B::Space>& g,
             const DecayedScoreNorm<Wide<T>, typename B::Space>& n,
             const RetentionScale<Wide<T>, typename B::Space>& s) {
  B::decayed_attention(ctx, a);
  B::decayed_attention_backward(ctx, g);
  B::decayed_score_norm(ctx, n);
  B::retention_scale(ctx, s);
};

/// Computes DecayedAttention, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_attention(Context<B>& ctx, const DecayedAttention<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::decayed_attention(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::decayed_attention(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { decayed_attention(ctx, wide); });
  }
}

/// Computes DecayedAttentionBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_attention_backward(Context<B>& ctx,
                                const DecayedAttentionBackward<T, typename B::Space>& g) {
  require_gradients<DecayedAttention<T, typename B::Space>>(g);
  if constexpr (requires { B::decayed_attention_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, g.forward.name)) return;
    B::decayed_attention_backward(ctx, g);
  } else {
    detail::run_wide_gradient<DecayedAttention>(
        ctx, g, [&](const auto& wide) { decayed_attention_backward(ctx, wide); });
  }
}

/// Computes DecayedScoreNorm, whose docstring says the rest.
template <class B, class T>
  requires HasDecayedAttention<B, T>
void decayed_score_norm(Context<B>& ctx, const DecayedScoreNorm<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::decayed_score_norm(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::decayed_score_norm(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { decayed_score_norm(ctx, wide); });
  }
}

/// Computes RetentionScale, whose docstring says the rest.
template <class B, Real T>
  requires HasDecayedAttention<B, T>
void retention_scale(Context<B>& ctx, const RetentionScale<T, typename B::Space>& a) {
  require_operands(a);
  if (detail::runs_across_ranks(ctx, a, a.name)) return;
  B::retention_scale(ctx, a);
}

}  // namespace ssm
