// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "ssm/layer/layer.hpp"
#include "ssm/op/dropout.hpp"

namespace ssm {

/// A layer's own dropout, while it is trained: nothing happens without a seed, which only a call
/// that asks for it brings (SequenceOptions::dropout). The gradient is the same call with the same
/// seed, which the layer keeps on its tape.
/// x    contiguous, changed in place
/// Throws  ArgumentError  where a backend without dropout is asked for some
template <class B, class V>
void apply_dropout(Context<B>& ctx, double probability, const std::optional<Seed>& seed,
                   const V& x) {
  if (!seed || probability <= 0) return;
  if constexpr (HasDropout<B, typename V::Value>)
    dropout(ctx,
            Dropout<typename V::Value, typename B::Space>{
                .probability = probability, .seed = *seed, .x = x.flatten(), .y = x.flatten()});
  else
    throw ArgumentError("dropout: the backend has none");
}

namespace detail {
/// Throws  ArgumentError  unless 0 ≤ probability < 1
inline double require_probability(const char* layer, double probability) {
  if (!(probability >= 0 && probability < 1))
    throw ArgumentError(message({layer, ": dropout must be in [0, 1)"}));
  return probability;
}
}  // namespace detail

}  // namespace ssm
