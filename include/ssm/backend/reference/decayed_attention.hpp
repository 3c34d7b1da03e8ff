// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/op/decayed_attention.hpp"

namespace ssm::reference {

/// DecayedAttention by its recurrence, a position at a time, in double precision; DecayedScoreNorm
/// by its sum.
struct DecayedAttention {
  template <class Ctx, Real T>
  static void decayed_attention(Ctx& ctx, const ssm::DecayedAttention<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    const auto state = frame.template tensor<double>(a.q.extent(3), a.v.extent(3));
    for_each_head(a.q, a.segments, [&](Sequence s, Index h) {
      load(a.initial_state, s, h, state);
      const double decay = std::exp(double{a.log_decay(h)});
      for (Index t = s.begin; t < s.end; ++t) {
        advance(state, decay, a.k, a.v, s.batch, t, h);
        for (Index j = 0; j < a.v.extent(3); ++j) {
          double y = 0;
          for (Index i = 0; i < a.q.extent(3); ++i) y += a.q(s.batch, t, h, i) * state(i, j);
          a.y(s.batch, t, h, j) = static_cast<T>(y);
        }
      }
      save(state, 1, a.final_state, s, h);
    });
  }

  /// Forwards with S:   dq_n = S_n·dy_n.
  /// Backwards with R_n = γ·R_{n+1} + q_n ⊗ dy_n, which ends as the final state's gradient over γ:
  ///   dk_n = R_n·v_n,  dv_n = k_n·R_n,  and γ·R_0 is the gradient of the initial state.
  template <class Ctx, Real T>
  static void decayed_attention_backward(
      Ctx& ctx, const ssm::DecayedAttentionBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    auto frame = ctx.workspace().frame();
    const auto state = frame.template tensor<double>(a.q.extent(3), a.v.extent(3));
    for_each_head(a.q, a.segments, [&](Sequence s, Index h) {
      const double decay = std::exp(double{a.log_decay(h)});
      load(a.initial_state, s, h, state);
      for (Index t = s.begin; t < s.end; ++t) {
        advance(state, decay, a.k, a.v, s.batch, t, h);
        rows_times(state, g.dy, g.dq, s.batch, t, h);
      }
      load(g.dfinal_state, s, h, state);
      for (Index t = s.end; t-- > s.begin;) {
        // The final state's gradient is R/γ already: it does not fade on the way to the last
        // position.
        advance(state, t + 1 == s.end ? 1 : decay, a.q, g.dy, s.batch, t, h);
        rows_times(state, a.v, g.dk, s.batch, t, h);
        for (Index j = 0; j < a.v.extent(3); ++j) {
          double dv = 0;
          for (Index i = 0; i < a.q.extent(3); ++i) dv += a.k(s.batch, t, h, i) * state(i, j);
          g.dv(s.batch, t, h, j) = static_cast<T>(dv);
        }
      }
      save(state, s.begin == s.end ? 1 : decay, g.dinitial_state, s, h);
    });
  }

  template <class Ctx, Real T>
  static void decayed_score_norm(Ctx&, const ssm::DecayedScoreNorm<T, typename Ctx::Space>& a) {
    for_each_head(a.q, a.segments, [&](Sequence s, Index h) {
      for (Index t = s.begin; t < s.end; ++t) {
        double sum = 0;
        for (Index m = s.begin; m <= t; ++m) {
          double score = 0;
          for (Index i = 0; i < a.q.extent(3); ++i)
            score += double{a.q(s.batch, t, h, i)} * a.k(s.batch, m, h, i);
          sum += std::exp(static_cast<double>(t - m) * a.log_decay(h)) * std::abs(score);
        }
        a.y(s.batch, t, h) = static_cast<T>(sum);
      }
    });
  }

  template <class Ctx, Real T>
  static void retention_scale(Ctx&, const ssm::RetentionScale<T, typename Ctx::Space>& a) {
    for_each_sequence(a.y.extent(0), a.y.extent(1), a.segments, [&](Sequence s) {
      const std::int64_t first = a.position ? a.position(s.row) : 0;
      for (Index t = s.begin; t < s.end; ++t)
        for (Index h = 0; h < a.y.extent(2); ++h) {
          const double sum =
              sum_of_powers(a.log_decay(h), static_cast<double>(first + t - s.begin));
          const double norm = a.score_norm ? a.score_norm(s.batch, t, h) : 0;
          const double clamped = std::clamp(norm / std::sqrt(sum), 1.0, 5e4);
          a.y(s.batch, t, h) = static_cast<T>(sum * clamped * clamped);
        }
    });
  }

  /// Σ_{j≤n} γ^j
  static double sum_of_powers(double log_decay, double n) {
    return log_decay == 0 ? n + 1 : std::expm1((n + 1) * log_decay) / std::expm1(log_decay);
  }

 private:
  template <class V, class F>
  static void for_each_head(const V& q, Segments segments, F&& visit) {
    for_each_sequence(q.extent(0), q.extent(1), segments, [&](Sequence s) {
      for (Index h = 0; h < q.extent(2); ++h) visit(s, h);
    });
  }

  template <class V>
  static void load(const V& from, Sequence s, Index h, const View<double, 2>& state) {
    for (Index i = 0; i < state.extent(0); ++i)
      for (Index j = 0; j < state.extent(1); ++j)
        state(i, j) = from ? double{from(s.row, h, i, j)} : 0.0;
  }

  template <class V>
  static void save(const View<double, 2>& state, double factor, const V& to, Sequence s, Index h) {
    if (!to) return;
    for (Index i = 0; i < state.extent(0); ++i)
      for (Index j = 0; j < state.extent(1); ++j)
        to(s.row, h, i, j) = static_cast<typename V::Value>(factor * state(i, j));
  }

  /// state ← decay·state + k ⊗ v
  template <class K, class V>
  static void advance(const View<double, 2>& state, double decay, const K& k, const V& v, Index b,
                      Index t, Index h) {
    for (Index i = 0; i < state.extent(0); ++i)
      for (Index j = 0; j < state.extent(1); ++j)
        state(i, j) = decay * state(i, j) + double{k(b, t, h, i)} * v(b, t, h, j);
  }

  /// to_i = Σ_j state_ij·from_j
  template <class From, class To>
  static void rows_times(const View<double, 2>& state, const From& from, const To& to, Index b,
                         Index t, Index h) {
    for (Index i = 0; i < state.extent(0); ++i) {
      double sum = 0;
      for (Index j = 0; j < state.extent(1); ++j) sum += state(i, j) * from(b, t, h, j);
      to(b, t, h, i) = static_cast<typename To::Value>(sum);
    }
  }
};

}  // namespace ssm::reference
