// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/sample.hpp"

namespace ssm::cpu {

/// ssm::sample: a row on each thread, weights in double precision, and no more sorting than top-k
/// and top-p need.
template <class Arch>
struct Sample {
  template <class Ctx, Real T>
  static void sample(Ctx& ctx, const ssm::Sample<T, typename Ctx::Space>& a) {
    const Index batch = a.logits.extent(0);
    const Index vocabulary = a.vocabulary == dyn ? a.logits.extent(1) : a.vocabulary;
    if (batch > 0 && vocabulary == 0) throw ArgumentError("sample: the vocabulary is empty");
    require_finite(a, batch, vocabulary);
    const Threads threads = ctx.resources().threads();
    const bool drawn = a.sampling.temperature > 0;
    auto frame = ctx.workspace().frame();
    const auto weights = frame.template tensor<double>(drawn ? threads : 0, padded(vocabulary));
    const auto orders = frame.template tensor<Index>(drawn ? threads : 0, vocabulary);
    const Index grain = vocabulary < 8192 ? 8 : 1;
    parallel(threads, batch, grain, [&](Range rows, int worker) {
      for (Index b = rows.begin; b < rows.end; ++b) {
        const Index best = likeliest(a.logits, b, vocabulary);
        a.tokens(b) = static_cast<Token>(
            drawn ? draw(a, b, Row{&weights(worker, 0), &orders(worker, 0), vocabulary, best})
                  : best);
      }
    });
  }

 private:
  using Register = Batch<double, Arch>;
  static constexpr Index lanes = lane_count<double, Arch>;
  static constexpr Index padded(Index n) { return (n + lanes - 1) / lanes * lanes; }

  /// Scratch for one row: exp((logit − best logit) / temperature) of each token, and room to sort
  /// tokens.
  struct Row {
    double* weight;
    Index* order;
    Index vocabulary;
    Index best;
  };

  template <class T>
  static void require_finite(const ssm::Sample<T, HostSpace>& a, Index batch, Index vocabulary) {
    for (Index b = 0; b < batch; ++b) {
      T sum{};  // of zeros, and NaN where anything is not finite
      for (Index v = 0; v < vocabulary; ++v) sum += a.logits(b, v) * T{0};
      if (sum == T{0}) continue;
      for (Index v = 0; v < vocabulary; ++v)
        if (!std::isfinite(a.logits(b, v)))
          throw ArgumentError(
              message({"sample: the logit of token ", v, " in row ", b, " is not finite"}));
    }
  }

  template <class T>
  static Index likeliest(const View<const T, 2>& logits, Index b, Index vocabulary) {
    const T* row = &logits(b, 0);
    const Index stride = logits.stride(1);
    Index best = 0;
    for (Index v = 1; v < vocabulary; ++v)
      if (row[v * stride] > row[best * stride]) best = v;
    return best;
  }

  template <class T>
  static Index draw(const ssm::Sample<T, HostSpace>& a, Index b, const Row& row) {
    const auto number =
        a.counter * static_cast<std::uint64_t>(a.logits.extent(0)) + static_cast<std::uint64_t>(b);
    const double uniform = Random(a.seed).uniform(number);
    weigh(a, b, row);
    const Index kept = keep_likely(a.sampling, row);
    if (kept < row.vocabulary) {
      std::sort(row.order, row.order + kept);
      return pick(row, kept, uniform, [&](Index i) { return row.order[i]; });
    }
    if (a.sampling.min_p > 0)
      for (Index v = 0; v < row.vocabulary; ++v)
        if (row.weight[v] < a.sampling.min_p) row.weight[v] = 0;
    return pick(row, row.vocabulary, uniform, [](Index i) { return i; });
  }

  template <class T>
  static void weigh(const ssm::Sample<T, HostSpace>& a, Index b, const Row& row) {
    const T* logit = &a.logits(b, 0);
    const Index stride = a.logits.stride(1);
    const double best = logit[row.best * stride];
    for (Index v = 0; v < row.vocabulary; v += lanes) {
      alignas(64) double distance[lanes];
      for (Index i = 0; i < lanes; ++i) {
        const Index token = std::min(v + i, row.vocabulary - 1);
        distance[i] = (logit[token * stride] - best) / a.sampling.temperature;
      }
      xsimd::exp(Register::load_aligned(distance)).store_aligned(row.weight + v);
    }
  }

  /// How many of the likeliest tokens top-k, top-p and min-p keep; unless these are all, they begin
  /// `order`.
  static Index keep_likely(const Sampling& sampling, const Row& row) {
    const Index vocabulary = row.vocabulary;
    Index kept = vocabulary;
    const bool sorted = (sampling.top_k > 0 && sampling.top_k < vocabulary) || sampling.top_p < 1;
    if (!sorted) return kept;
    for (Index v = 0; v < vocabulary; ++v) row.order[v] = v;
    if (sampling.top_k > 0 && sampling.top_k < vocabulary)
      kept = select(row, sampling.top_k, vocabulary);
    if (sampling.top_p < 1) kept = likeliest_share(sampling.top_p, row, kept);
    return static_cast<Index>(
        std::partition(row.order, row.order + kept,
                       [&](Index v) { return row.weight[v] >= sampling.min_p; }) -
        row.order);
  }

  /// Brings the `count` likeliest of the first `available` tokens of `order` to its front.
  static Index select(const Row& row, Index count, Index available) {
    if (count < available)
      std::nth_element(row.order, row.order + count, row.order + available, Likelier{row.weight});
    return std::min(count, available);
  }

  /// Sorts ever longer fronts of `order` until their weights reach the share; returns how many
  /// reach it.
  static Index likeliest_share(double share, const Row& row, Index available) {
    double total = 0;
    for (Index i = 0; i < available; ++i) total += row.weight[row.order[i]];
    constexpr Index first_front = 64;
    double sum = 0;
    Index kept = 0;
    for (Index front = first_front; kept < available && sum < share * total; front *= 4) {
      const Index begin = kept;
      const Index end =
          begin + select({row.weight, row.order + begin, 0, 0}, front, available - begin);
      std::sort(row.order + begin, row.order + end, Likelier{row.weight});
      while (kept < end && sum < share * total) sum += row.weight[row.order[kept++]];
    }
    return kept;
  }

  struct Likelier {
    const double* weight;
    bool operator()(Index v, Index w) const {
      return weight[v] > weight[w] || (weight[v] == weight[w] && v < w);
    }
  };

  /// The token at which the sum of weights, in the order of tokens, passes `uniform` of the total.
  template <class F>
  static Index pick(const Row& row, Index count, double uniform, F&& token) {
    double total = 0;
    for (Index i = 0; i < count; ++i) total += row.weight[token(i)];
    double sum = 0;
    Index last = row.best;  // should rounding leave `uniform` beyond the sum
    for (Index i = 0; i < count; ++i) {
      const double weight = row.weight[token(i)];
      if (weight == 0) continue;
      last = token(i);
      sum += weight;
      if (uniform * total < sum) break;
    }
    return last;
  }
};

}  // namespace ssm::cpu
