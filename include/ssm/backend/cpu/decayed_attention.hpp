// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/cpu/decayed_attention_heads.hpp"
#include "ssm/backend/cpu/decayed_attention_scores.hpp"
#include "ssm/backend/cpu/decayed_attention_step.hpp"

namespace ssm::cpu {

/// ssm::decayed_attention: chunks of matrix products; for a single position, the state in place.
template <class Arch>
struct DecayedAttention {
  template <class Ctx, Real T>
  static void decayed_attention(Ctx& ctx, const ssm::DecayedAttention<T, typename Ctx::Space>& a) {
    if (DecayedStep<T, Arch>::applies(a))
      DecayedStep<T, Arch>::run(ctx.resources().threads(), a);
    else
      DecayedHeads<T, Arch>::forward(ctx, a);
  }

  template <class Ctx, Real T>
  static void decayed_attention_backward(
      Ctx& ctx, const ssm::DecayedAttentionBackward<T, typename Ctx::Space>& g) {
    DecayedHeads<T, Arch>::backward(ctx, g);
  }

  template <class Ctx, Real T>
  static void decayed_score_norm(Ctx& ctx, const ssm::DecayedScoreNorm<T, typename Ctx::Space>& a) {
    DecayedScores<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void retention_scale(Ctx& ctx, const ssm::RetentionScale<T, typename Ctx::Space>& a) {
    const Index length = a.y.extent(1), heads = a.y.extent(2);
    const Index grain = std::max<Index>(1, 1024 / std::max<Index>(1, length));
    parallel(ctx.resources().threads(), sequence_count(a.y.extent(0), a.segments) * heads, grain,
             [&](Range range, int) {
               for (Index i = range.begin; i < range.end; ++i)
                 scale_head(a, sequence_at(i / heads, length, a.segments), i % heads);
             });
  }

 private:
  template <class T>
  static void scale_head(const ssm::RetentionScale<T, HostSpace>& a, Sequence s, Index h) {
    const double log_decay = a.log_decay(h), decay = std::exp(log_decay);
    const auto first = static_cast<double>(a.position ? a.position(s.row) : 0);
    // D before the first row; at position 0 there is nothing.
    double sum = log_decay == 0 ? first : std::expm1(first * log_decay) / std::expm1(log_decay);
    for (Index t = s.begin; t < s.end; ++t) {
      sum = decay * sum + 1;
      const double norm = a.score_norm ? a.score_norm(s.batch, t, h) : 0;
      const double clamped = std::clamp(norm / std::sqrt(sum), 1.0, 5e4);
      a.y(s.batch, t, h) = static_cast<T>(sum * clamped * clamped);
    }
  }
};

}  // namespace ssm::cpu
