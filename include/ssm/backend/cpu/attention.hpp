// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/attention_backward.hpp"
#include "ssm/backend/cpu/attention_forward.hpp"
#include "ssm/backend/cpu/attention_step.hpp"
#include "ssm/backend/cpu/rotary.hpp"

namespace ssm::cpu {

/// ssm::attention and ssm::rotary: tiles of queries for a sequence, the cache in place for a few
/// positions.
template <class Arch>
struct Attention {
  template <class Ctx, Real T>
  static void attention(Ctx& ctx, const ssm::Attention<T, typename Ctx::Space>& a) {
    if (a.segments.empty() && a.q.extent(1) <= AttentionStep<T, Arch>::max_queries)
      AttentionStep<T, Arch>::run(ctx, a);
    else
      AttentionForward<T, Arch>::run(ctx, a);
  }

  template <class Ctx, Real T>
  static void attention_backward(Ctx& ctx,
                                 const ssm::AttentionBackward<T, typename Ctx::Space>& g) {
    AttentionBackward<T, Arch>::run(ctx, g);
  }

  template <class Ctx, Real T>
  static void rotary(Ctx& ctx, const ssm::Rotary<T, typename Ctx::Space>& a) {
    RotaryRotation<T>::run(ctx, a);
  }
};

}  // namespace ssm::cpu
