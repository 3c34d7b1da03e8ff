// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <optional>

#include "ssm/train/text_loss.hpp"

namespace ssm {

/// Where the part of a text that is held out begins: behind the first (1 − held_out) of it.
inline std::size_t held_out_begin(std::size_t tokens, double held_out) {
  return static_cast<std::size_t>((1 - held_out) * static_cast<double>(tokens));
}

/// For each token.
inline double perplexity(const TextLoss& loss) { return std::exp(loss.mean()); }
/// For each of so many words, bytes or whatever the text has.
///   exp(nats / units)
inline double perplexity(const TextLoss& loss, double units) { return std::exp(loss.nats / units); }
/// For tokens that are bytes.
inline double bits_per_byte(const TextLoss& loss) { return loss.mean() / std::numbers::ln2; }
/// For tokens of so many bytes, on the average.
inline double bits_per_byte(const TextLoss& loss, double bytes_per_token) {
  return bits_per_byte(loss) / bytes_per_token;
}

/// After how many tokens a model starts afresh while it is evaluated, 0 for never. Attention over a
/// whole text would be quadratic, so models with attention start afresh every 1024 tokens; learned
/// positions end.
/// context   what is asked for, in place of this
constexpr Index evaluation_context(bool has_attention, Index positions,
                                   std::optional<Index> context = std::nullopt) {
  constexpr Index attention_context = 1024;
  const Index wanted = context.value_or(has_attention ? attention_context : 0);
  return positions > 0 && (wanted == 0 || wanted > positions) ? positions : wanted;
}

}  // namespace ssm
