// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/op/sample.hpp"

namespace ssm::reference {

/// Sample, one row at a time: one uniform number, looked up in the sum of the kept probabilities in
/// the order of tokens.
struct Sample {
  template <class Ctx, Real T>
  static void sample(Ctx& ctx, const ssm::Sample<T, typename Ctx::Space>& a) {
    const Index vocabulary = a.vocabulary == dyn ? a.logits.extent(1) : a.vocabulary;
    const Index batch = a.logits.extent(0);
    if (batch > 0 && vocabulary == 0) throw ArgumentError("sample: the vocabulary is empty");
    for (Index b = 0; b < batch; ++b)
      for (Index v = 0; v < vocabulary; ++v)
        if (!std::isfinite(a.logits(b, v)))
          throw ArgumentError("sample: the logit of token " + std::to_string(v) + " in row " +
                              std::to_string(b) + " is not finite");
    auto frame = ctx.workspace().frame();
    const auto probability = frame.template tensor<double>(vocabulary);
    const auto order = frame.template tensor<Index>(vocabulary);
    for (Index b = 0; b < batch; ++b) {
      const Index best = likeliest(a, b, vocabulary);
      if (!(a.sampling.temperature > 0)) {
        a.tokens(b) = static_cast<Token>(best);
        continue;
      }
      softmax(a, b, best, probability);
      drop_unlikely(a.sampling, probability, order);
      const std::uint64_t number =
          a.counter * static_cast<std::uint64_t>(batch) + static_cast<std::uint64_t>(b);
      a.tokens(b) = draw(probability, Random(a.seed).uniform(number));
    }
  }

 private:
  template <class T, class Space>
  static Index likeliest(const ssm::Sample<T, Space>& a, Index b, Index vocabulary) {
    Index best = 0;
    for (Index v = 1; v < vocabulary; ++v)
      if (a.logits(b, v) > a.logits(b, best)) best = v;
    return best;
  }

  /// The probabilities up to a common factor: the likeliest is one, so that equal logits sum
  /// without rounding.
  template <class T, class Space>
  static void softmax(const ssm::Sample<T, Space>& a, Index b, Index best,
                      const View<double, 1>& probability) {
    for (Index v = 0; v < probability.extent(0); ++v) {
      const double distance = double{a.logits(b, v)} - a.logits(b, best);  // ≤ 0
      probability(v) = std::exp(distance / a.sampling.temperature);
    }
  }

  /// Sets the probabilities of the tokens that top-k, top-p and min-p leave out to zero. Sorted
  /// from the likeliest on, and by token among equals, each of the three keeps a prefix; top-p a
  /// share of what top-k kept.
  static void drop_unlikely(const Sampling& sampling, const View<double, 1>& probability,
                            const View<Index, 1>& order) {
    const Index vocabulary = probability.extent(0);
    Index kept = sampling.top_k > 0 ? std::min(sampling.top_k, vocabulary) : vocabulary;
    if (kept < vocabulary || sampling.top_p < 1) {
      for (Index v = 0; v < vocabulary; ++v) order(v) = v;
      std::sort(order.data(), order.data() + vocabulary, [&](Index v, Index w) {
        return probability(v) > probability(w) || (probability(v) == probability(w) && v < w);
      });
      double total = 0;
      for (Index i = 0; i < kept; ++i) total += probability(order(i));
      double sum = 0;
      Index likely = 0;
      while (likely < kept && sum < sampling.top_p * total) sum += probability(order(likely++));
      if (sampling.top_p < 1) kept = likely;
      for (Index i = kept; i < vocabulary; ++i) probability(order(i)) = 0;
    }
    for (Index v = 0; v < vocabulary; ++v)
      if (probability(v) < sampling.min_p) probability(v) = 0;
  }

  static Token draw(const View<double, 1>& probability, double uniform) {
    double total = 0;
    for (Index v = 0; v < probability.extent(0); ++v) total += probability(v);
    double sum = 0;
    Index last = 0;  // with a probability, should rounding leave `uniform` beyond the sum
    for (Index v = 0; v < probability.extent(0); ++v) {
      if (probability(v) == 0) continue;
      last = v;
      sum += probability(v);
      if (uniform * total < sum) break;
    }
    return static_cast<Token>(last);
  }
};

}  // namespace ssm::reference
