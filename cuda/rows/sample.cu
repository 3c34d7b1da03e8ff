// SPDX-License-Identifier: Apache-2.0
#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"
#include "rows/sample_cut.cuh"
#include "ssm/backend/cuda/sample.hpp"

namespace ssm::cuda {
namespace {

/// A logit and its token; the lowest token among equals is the better one.
template <class T>
struct Candidate {
  T logit;
  Index token;
};

/// The best candidate(i), i < n; token −1 where any candidate's is.
template <class T, class Lanes, class F>
SSM_DEVICE Candidate<T> best_of(Lanes lanes, Index n, F candidate) {
  constexpr int together = 8;  // on their way; in place of one that is not there, the last
  Candidate<T> own{static_cast<T>(-INFINITY), -1};
  bool is_bad = false;
  for (Index first = lanes.index(); first < n; first += together * Lanes::count) {
    Candidate<T> others[together];
    SSM_UNROLL
    for (int u = 0; u < together; ++u) {
      const Index i = first + u * Lanes::count;
      others[u] = candidate(i < n ? i : n - 1);
    }
    SSM_UNROLL
    for (int u = 0; u < together; ++u) {
      is_bad = is_bad || others[u].token < 0;
      if (others[u].logit > own.logit) own = others[u];
    }
  }
  const T logit = lanes.max(Lanes::count, [&](Index) { return own.logit; });
  const double lowest = -lanes.max(Lanes::count, [&](Index) {
    return own.logit == logit ? -static_cast<double>(own.token) : -INFINITY;
  });
  const bool any_bad = lanes.max(Lanes::count, [&](Index) { return is_bad ? 1.0F : 0.0F; }) > 0;
  return {logit, any_bad ? Index{-1} : static_cast<Index>(lowest)};
}

template <class T>
struct LogitAt {
  SSM_DEVICE Candidate<T> operator()(Index b, Index v) const {
    const T logit = logits(b, v);
    return {logit, std::isfinite(logit) ? v : Index{-1}};
  }
  device::Operand<const T, 2> logits;
};

/// write(b, the token with the largest logit of row b).
template <class T, class Write>
void find_best(const ssm::Sample<T, CudaSpace>& a, Index vocabulary, const SampleScratch& scratch,
               Stream stream, Write write) {
  const LogitAt<T> candidate{device::operand(a.logits)};
  const Index batch = a.logits.extent(0);
  const Index parts = sample_parts(vocabulary);
  device::for_each_row(
      batch * parts, stream, "sample", [=] SSM_DEVICE(Index row, device::Lanes lanes) {
        const Index b = row / parts;
        const Index begin = row % parts * sample_part;
        const Index left = vocabulary - begin;
        const auto best = best_of<T>(lanes, left < sample_part ? left : sample_part,
                                     [&](Index i) { return candidate(b, begin + i); });
        if (!lanes.first()) return;
        scratch.best_logit[row] = best.logit;
        scratch.best_token[row] = best.token;
        if (parts == 1) write(b, best.token);
      });
  if (parts == 1) return;
  device::for_each_row(batch, stream, "sample", [=] SSM_DEVICE(Index b, device::Lanes lanes) {
    const auto best = best_of<double>(lanes, parts, [&](Index i) {
      return Candidate<double>{scratch.best_logit[b * parts + i],
                               scratch.best_token[b * parts + i]};
    });
    if (lanes.first()) write(b, best.token);
  });
}

/// The probabilities up to a common factor: the likeliest is one, so that equal logits sum without
/// rounding.
template <class T>
struct SampleWeight {
  SSM_DEVICE double operator()(Index b, Index v) const {
    const Index best = scratch.best[b] < 0 ? 0 : scratch.best[b];
    const double distance = static_cast<double>(logits(b, v)) - logits(b, best);  // ≤ 0
    return std::exp(distance / temperature);
  }
  device::Operand<const T, 2> logits;
  double temperature;
  SampleScratch scratch;
};

template <class T>
void weigh(const ssm::Sample<T, CudaSpace>& a, Index vocabulary, const SampleScratch& scratch,
           Stream stream) {
  const auto elements = device::matrix_elements(a.logits.extent(0), vocabulary);
  const SampleWeight<T> weight{device::operand(a.logits), a.sampling.temperature, scratch};
  device::for_each_index(elements.count, stream, "sample", [=] SSM_DEVICE(Index i) {
    const auto [b, v] = elements.at(i);
    scratch.weight[i] = weight(b, v);
  });
}

/// Sums of neighboring tokens; min-p leaves out the unlikely ones. Weights are made here unless
/// they are there.
template <class T>
void add_groups(const ssm::Sample<T, CudaSpace>& a, Index vocabulary, bool has_weights,
                const SampleScratch& scratch, Stream stream) {
  const auto elements = device::matrix_elements(a.logits.extent(0), sample_groups(vocabulary));
  const SampleWeight<T> weight{device::operand(a.logits), a.sampling.temperature, scratch};
  const double min_p = a.sampling.min_p;
  device::for_each_row(
      elements.count, stream, "sample", [=] SSM_DEVICE(Index i, device::Lanes lanes) {
        const auto at = elements.at(i);
        const Index b = at.row, begin = at.column * sample_group, left = vocabulary - begin;
        double* const weights = scratch.weight + b * vocabulary + begin;
        const double sum = lanes.sum(left < sample_group ? left : sample_group, [&](Index v) {
          const double own = has_weights ? weights[v] : weight(b, begin + v);
          return weights[v] = own < min_p ? 0 : own;
        });
        if (lanes.first()) scratch.group_sum[i] = sum;
      });
}

/// One uniform number, looked up in the sum of the weights in the order of tokens: runs of groups,
/// groups, tokens.
template <class T>
void draw(const ssm::Sample<T, CudaSpace>& a, Index vocabulary, const SampleScratch& scratch,
          Stream stream) {
  const auto tokens = device::operand(a.tokens);
  const Index batch = a.logits.extent(0);
  const Index groups = sample_groups(vocabulary);
  const Index run = (groups + sample_runs - 1) / sample_runs;  // groups
  const Random random(a.seed);
  const std::uint64_t first_number = a.counter * static_cast<std::uint64_t>(batch);
  device::for_each_row(batch, stream, "sample", [=] SSM_DEVICE(Index b, device::Lanes lanes) {
    const double* const group_sum = scratch.group_sum + b * groups;
    double* const run_sum = scratch.run_sum + b * sample_runs;
    lanes.each(sample_runs, [&](Index i) {
      const Index end = (i + 1) * run < groups ? (i + 1) * run : groups;
      constexpr int together = 16;
      double sum = 0;
      for (Index first = i * run; first < end; first += together) {
        double some[together];
        SSM_UNROLL
        for (int u = 0; u < together; ++u) some[u] = first + u < end ? group_sum[first + u] : 0.0;
        SSM_UNROLL
        for (int u = 0; u < together; ++u) sum += some[u];
      }
      run_sum[i] = sum;
    });
    lanes.wait();
    const double total = lanes.sum(sample_runs, [&](Index i) { return run_sum[i]; });
    const double target = random.uniform(first_number + static_cast<std::uint64_t>(b)) * total;
    double sum = 0;
    const Index begin =
        run * lanes.find_part(sample_runs, target, sum, [&](Index i) { return run_sum[i]; });
    const Index group = begin + lanes.find_part(begin + run < groups ? run : groups - begin, target,
                                                sum, [&](Index i) { return group_sum[begin + i]; });
    const Index first = group * sample_group, left = vocabulary - first;
    const double* const weight = scratch.weight + b * vocabulary + first;
    const Index token = first + lanes.find_part(left < sample_group ? left : sample_group, target,
                                                sum, [&](Index i) { return weight[i]; });
    if (lanes.first()) tokens(b) = static_cast<Token>(scratch.best[b] < 0 ? Index{-1} : token);
  });
}

}  // namespace

template <class T>
void sample(const ssm::Sample<T, CudaSpace>& a, const SampleScratch& scratch, Stream stream) {
  const Sampling& sampling = a.sampling;
  const Index batch = a.logits.extent(0);
  const Index vocabulary = a.vocabulary == dyn ? a.logits.extent(1) : a.vocabulary;
  if (!(sampling.temperature > 0)) {
    const auto tokens = device::operand(a.tokens);
    return find_best(a, vocabulary, scratch, stream, [=] SSM_DEVICE(Index b, Index token) {
      tokens(b) = static_cast<Token>(token);
    });
  }
  Index* const best = scratch.best;
  find_best(a, vocabulary, scratch, stream,
            [=] SSM_DEVICE(Index b, Index token) { best[b] = token; });
  const device::SampleRows rows{batch, vocabulary};
  const bool keeps_k = sampling.top_k > 0 && sampling.top_k < vocabulary;
  const bool keeps_p = sampling.top_p < 1;
  if (keeps_k || keeps_p) weigh(a, vocabulary, scratch, stream);
  if (keeps_k)
    device::keep_likeliest(rows, scratch, {true, static_cast<double>(sampling.top_k)}, stream);
  if (keeps_p) device::keep_likeliest(rows, scratch, {false, sampling.top_p}, stream);
  add_groups(a, vocabulary, keeps_k || keeps_p, scratch, stream);
  draw(a, vocabulary, scratch, stream);
}

#define SSM_INSTANTIATE(T)                                                                     \
  template SSM_CUDA_API void sample<T>(const ssm::Sample<T, CudaSpace>&, const SampleScratch&, \
                                       Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
