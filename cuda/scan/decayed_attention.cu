// SPDX-License-Identifier: Apache-2.0
#include "scan/decayed_chunks.cuh"
#include "scan/decayed_step.cuh"
#include "ssm/backend/cuda/decayed_attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kNormQueries = 4;  // queries that read a key once

template <class T>
struct HeadLogDecay {
  SSM_DEVICE double operator()(Index, Index, Index h) const { return log_decay(h); }

  Operand<const T, 1> log_decay;
};

template <class T>
struct StoreValue {
  SSM_DEVICE void operator()(Index b, Index t, Index h, Index j, T value) const {
    to(b, t, h, j) = value;
  }

  Operand<T, 4> to;
};

/// The factors of a call of one position.
template <class T>
struct RetentionStepFactors {
  SSM_DEVICE T scale(Index, Index) const { return T{1}; }
  SSM_DEVICE T fade(Index, Index h) const { return std::exp(log_decay(h)); }

  Operand<const T, 1> log_decay;
};

template <class T>
DecayedPasses<T> retention_passes(const ssm::DecayedAttention<T, CudaSpace>& call,
                                  DeviceSegments segments, const DecayedSizes& sizes, double* sums,
                                  T* workspace, Stream stream, const char* operation) {
  DecayedPasses<T> passes{DecayedMemory<T>(sizes, segments, sums, workspace), stream, operation};
  passes.a.q = operand(call.q);
  passes.a.k = operand(call.k);
  passes.a.v = operand(call.v);
  return passes;
}

/// Factors and weights.
template <class T>
void prepare_retention(const DecayedPasses<T>& passes,
                       const ssm::DecayedAttention<T, CudaSpace>& call) {
  passes.factors(HeadLogDecay<T>{operand(call.log_decay)});
  passes.weights();
}

/// Four neighboring queries of one head; of other sequences, each its own keys.
template <class T>
struct ScoreNormRow {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index h = row % heads;
    const Index first = row / heads % blocks * kNormQueries;
    const Index b = row / heads / blocks;
    Index begin[kNormQueries];
    SSM_UNROLL
    for (int r = 0; r < kNormQueries; ++r)
      begin[r] = first + r < packing.length ? packing.sequence_with(b, first + r).begin : 0;
    const Index last =
        first + kNormQueries < packing.length ? first + kNormQueries : packing.length;
    const double rate = log_decay(h);
    T sum[kNormQueries] = {};
    lanes.each(last - begin[0], [&](Index i) {
      const Index m = begin[0] + i;
      T score[kNormQueries] = {};
      for (Index c = 0; c < width; ++c) {
        const T key = k(b, m, h, c);
        SSM_UNROLL
        for (int r = 0; r < kNormQueries; ++r)
          if (first + r < packing.length) score[r] += q(b, first + r, h, c) * key;
      }
      SSM_UNROLL
      for (int r = 0; r < kNormQueries; ++r) {
        const Index t = first + r;
        if (t < packing.length && m >= begin[r] && m <= t)
          sum[r] += static_cast<T>(std::exp(static_cast<T>(static_cast<double>(t - m) * rate))) *
                    std::abs(score[r]);
      }
    });
    SSM_UNROLL
    for (int r = 0; r < kNormQueries; ++r) {
      const T total = lanes.total(sum[r]);
      if (lanes.first() && first + r < packing.length) y(b, first + r, h) = total;
    }
  }

  Operand<const T, 4> q, k;
  Operand<const T, 1> log_decay;
  Operand<T, 3> y;
  Packing packing;
  Index heads;
  Index blocks;
  Index width;
};

}  // namespace
}  // namespace device

template <class T>
void decayed_attention(const ssm::DecayedAttention<T, CudaSpace>& call, DeviceSegments segments,
                       const DecayedSizes& sizes, double* sums, T* workspace, Stream stream) {
  using namespace device;
  const auto passes =
      retention_passes(call, segments, sizes, sums, workspace, stream, "decayed_attention");
  const auto initial_state = operand(call.initial_state);
  const auto final_state = operand(call.final_state);
  const StoreValue<T> store{operand(call.y)};
  if (is_decayed_step(passes.a))
    return step_decayed(
        DecayedStep<T, RetentionStepFactors<T>, StoreValue<T>>{
            passes.a, {operand(call.log_decay)}, initial_state, final_state, store},
        stream, passes.operation);
  prepare_retention(passes, call);
  passes.states(initial_state, final_state);
  passes.outputs(static_cast<bool>(initial_state), store);
}

template <class T>
void decayed_attention_backward(const ssm::DecayedAttentionBackward<T, CudaSpace>& g,
                                DeviceSegments segments, const DecayedSizes& sizes, double* sums,
                                T* workspace, Stream stream) {
  using namespace device;
  const auto& call = g.forward;
  const auto passes = retention_passes(call, segments, sizes, sums, workspace, stream,
                                       "decayed_attention_backward");
  const auto dy = operand(g.dy);
  const bool has_initial = static_cast<bool>(call.initial_state);
  const bool has_final = static_cast<bool>(g.dfinal_state);
  prepare_retention(passes, call);
  passes.states(operand(call.initial_state), {});
  passes.adjoints(dy, operand(g.dfinal_state), operand(g.dinitial_state));
  passes.pairs(dy);
  passes.value_gradients(dy, has_final, StoreValue<T>{operand(g.dv)});
  passes.key_gradients(dy, operand(g.dq), has_initial, false);
  passes.key_gradients(dy, operand(g.dk), has_final, true);
}

template <class T>
void decayed_score_norm(const ssm::DecayedScoreNorm<T, CudaSpace>& a, DeviceSegments segments,
                        Stream stream) {
  using namespace device;
  const Index heads = a.q.extent(2);
  const Index blocks = (a.q.extent(1) + kNormQueries - 1) / kNormQueries;
  for_each_row(a.q.extent(0) * blocks * heads, stream, "decayed_score_norm",
               ScoreNormRow<T>{operand(a.q), operand(a.k), operand(a.log_decay), operand(a.y),
                               Packing(segments, a.q.extent(0), a.q.extent(1)), heads, blocks,
                               a.q.extent(3)});
}

template <class T>
void retention_scale(const ssm::RetentionScale<T, CudaSpace>& a, DeviceSegments segments,
                     Stream stream) {
  const auto log_decay = device::operand(a.log_decay);
  const auto position = device::operand(a.position);
  const auto score_norm = device::operand(a.score_norm);
  const auto y = device::operand(a.y);
  const device::Packing packing(segments, a.y.extent(0), a.y.extent(1));
  const Index heads = a.y.extent(2);
  device::for_each_index(a.y.size(), stream, "retention_scale", [=] SSM_DEVICE(Index i) {
    const Index h = i % heads;
    const Index t = i / heads % packing.length;
    const Index b = i / heads / packing.length;
    const Sequence s = packing.sequence_with(b, t);
    const auto first = position ? position(s.row) : std::int64_t{0};
    const double count = static_cast<double>(first + t - s.begin) + 1;
    const double rate = log_decay(h);
    const double sum = rate == 0 ? count : std::expm1(count * rate) / std::expm1(rate);
    const double norm = (score_norm ? double{score_norm(b, t, h)} : 0.0) / std::sqrt(sum);
    const double clamped = norm < 1 ? 1.0 : norm > 5e4 ? 5e4 : norm;
    y(b, t, h) = static_cast<T>(sum * clamped * clamped);
  });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void decayed_attention<T>(const ssm::DecayedAttention<T, CudaSpace>&,   \
                                                  DeviceSegments, const DecayedSizes&, double*, \
                                                  T*, Stream);                                  \
  template SSM_CUDA_API void decayed_attention_backward<T>(                                     \
      const ssm::DecayedAttentionBackward<T, CudaSpace>&, DeviceSegments, const DecayedSizes&,  \
      double*, T*, Stream);                                                                     \
  template SSM_CUDA_API void decayed_score_norm<T>(const ssm::DecayedScoreNorm<T, CudaSpace>&,  \
                                                   DeviceSegments, Stream);                     \
  template SSM_CUDA_API void retention_scale<T>(const ssm::RetentionScale<T, CudaSpace>&,       \
                                                DeviceSegments, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
