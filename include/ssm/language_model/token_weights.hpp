// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "ssm/core/error.hpp"
#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// How logits are changed before a token is drawn from them; each is off at its default. In this
/// order, for the logit l of a token:
///   bias         l + logit_bias[token]; −∞ forbids a token
///   repetition   l / r where l > 0, else l · r, if the token occurs in the prompt or in what was
///                drawn
///   presence, frequency   l − presence − frequency · (how often it was drawn), if it was drawn
/// Source  Keskar et al. 2019 (CTRL) §4.1; the completions API of OpenAI
struct TokenWeights {
  std::map<Token, double> logit_bias = {};
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;

  bool is_nothing() const {
    return logit_bias.empty() && repetition_penalty == 1 && presence_penalty == 0 &&
           frequency_penalty == 0;
  }
  /// Throws  ArgumentError  for what is out of range
  void require(Index vocabulary) const {
    for (const auto& [token, bias] : logit_bias) {
      if (token < 0 || token >= vocabulary)
        throw ArgumentError(
            message({"logit bias: token ", token, " is outside the vocabulary of ", vocabulary}));
      if (std::isnan(bias) || bias == std::numeric_limits<double>::infinity())
        throw ArgumentError(message({"logit bias: that of token ", token, " is no number"}));
    }
    if (!(repetition_penalty > 0) || !std::isfinite(repetition_penalty))
      throw ArgumentError("repetition penalty: must be more than 0");
    if (!std::isfinite(presence_penalty) || !std::isfinite(frequency_penalty))
      throw ArgumentError("presence and frequency penalty: must be numbers");
  }
};

namespace detail {

/// What a forbidden token's logit becomes: finite, and too little for any temperature.
inline constexpr float forbidden = std::numeric_limits<float>::lowest() / 4;

/// How often tokens have occurred, as TokenWeights counts them.
struct TokenCounts {
  std::vector<bool> in_text;         // [vocabulary]: in the prompt or drawn
  std::map<Token, double> drawn;     // how often
  std::vector<Token> distinct = {};  // those of in_text

  void read(Token token) {
    const auto i = static_cast<std::size_t>(token);
    if (!in_text[i]) distinct.push_back(token);
    in_text[i] = true;
  }
};

inline void apply(const TokenWeights& weights, const TokenCounts& counts, std::span<float> logits) {
  const auto change = [&](Token token, auto&& to) {
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = static_cast<float>(std::clamp<double>(to(double{logit}), forbidden, -forbidden));
  };
  for (const auto& [token, bias] : weights.logit_bias)
    change(token, [added = bias](double logit) { return logit + added; });
  if (weights.repetition_penalty != 1)
    for (const Token token : counts.distinct)
      change(token, [&](double logit) {
        return logit > 0 ? logit / weights.repetition_penalty : logit * weights.repetition_penalty;
      });
  if (weights.presence_penalty != 0 || weights.frequency_penalty != 0)
    for (const auto& [token, count] : counts.drawn)
      change(token, [&, times = count](double logit) {
        return logit - weights.presence_penalty - weights.frequency_penalty * times;
      });
}

/// log Σ exp(l / temperature)
inline double log_sum(std::span<const float> logits, double temperature = 1) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp((logit - best) / temperature);
  return best / temperature + std::log(sum);
}

/// Forbids all but the tokens whose information is nearest to the entropy, as many as together have
/// the share p of probability.
///   keep by least | −log p(v) − H |,  H = −Σ p(v) log p(v)
/// Source  Meister et al. 2023 (locally typical sampling) §4
inline void keep_typical(double share, double temperature, std::span<float> logits) {
  const double total = log_sum(logits, temperature);
  std::vector<double> log_probability(logits.size());
  double entropy = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    log_probability[v] = logits[v] / temperature - total;
    const double p = std::exp(log_probability[v]);
    if (p > 0) entropy -= p * log_probability[v];
  }
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto distance = [&](std::size_t v) { return std::abs(log_probability[v] + entropy); };
  std::sort(order.begin(), order.end(), [&](std::size_t v, std::size_t w) {
    return distance(v) < distance(w) || (distance(v) == distance(w) && v < w);
  });
  double kept = 0;
  for (const std::size_t v : order) {
    if (kept >= share) logits[v] = forbidden;
    kept += std::exp(log_probability[v]);
  }
}

}  // namespace detail
}  // namespace ssm
