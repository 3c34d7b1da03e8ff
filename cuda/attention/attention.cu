// SPDX-License-Identifier: Apache-2.0
#include "attention/attention_sequences.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/attention.hpp"

namespace ssm::cuda {
namespace device {
namespace {

constexpr int kAttentionBlock = 16;  // keys, or queries, whose products overlap

/// Scores and what all passes read.
template <class T>
struct AttentionOperands {
  AttentionOperands(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                    const std::int64_t* cached_of_sequence)
      : q(operand(a.q)),
        k(operand(a.k)),
        v(operand(a.v)),
        sequences(a, segments, cached_of_sequence),
        positions(a.k.extent(1)),
        heads(a.q.extent(2)),
        width(a.q.extent(3)),
        scale(static_cast<T>(a.scale)) {}

  /// Query t of row b and key s of row `row`.
  SSM_DEVICE T score(Index b, Index t, Index row, Index s, Index h, Lanes lanes) const {
    return scale * lanes.sum(width, [&](Index c) { return q(b, t, h, c) * k(row, s, h, c); });
  }

  Operand<const T, 4> q, k, v;
  AttentionSequences sequences;
  Index positions;  // of k
  Index heads;
  Index width;
  T scale;
};

template <class T>
SSM_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

/// One query of one head.
template <class T>
struct AttentionRow {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const Index h = row % a.heads;
    const Index t = row / a.heads % a.sequences.packing.length;
    const Index b = row / a.heads / a.sequences.packing.length;
    const Sequence sequence = a.sequences.packing.sequence_with(b, t);
    const AttentionKeys keys = a.sequences.keys(sequence);
    const Index begin = keys.begin;
    const Index end = begin + keys.cached + t - sequence.begin + 1;
    T largest = -static_cast<T>(INFINITY);
    T sum{0};
    for (Index first = begin; first < end; first += kAttentionBlock) {
      T weight[kAttentionBlock];
      T now = largest;
      SSM_UNROLL
      for (int i = 0; i < kAttentionBlock; ++i) {
        weight[i] = first + i < end ? a.score(b, t, keys.batch, first + i, h, lanes)
                                    : -static_cast<T>(INFINITY);
        now = larger(now, weight[i]);
      }
      const T rescale = std::exp(largest - now);
      largest = now;
      sum *= rescale;
      SSM_UNROLL
      for (int i = 0; i < kAttentionBlock; ++i) {
        weight[i] = std::exp(weight[i] - now);
        sum += weight[i];
      }
      lanes.each(a.width, [&](Index c) {
        T value = first == begin ? T{0} : y(b, t, h, c) * rescale;
        SSM_UNROLL
        for (int i = 0; i < kAttentionBlock; ++i)
          if (first + i < end) value += weight[i] * a.v(keys.batch, first + i, h, c);
        y(b, t, h, c) = value;
      });
    }
    lanes.each(a.width, [&](Index c) { y(b, t, h, c) /= sum; });
    if (log_sum && lanes.first()) log_sum(b, t, h) = largest + std::log(sum);
  }

  AttentionOperands<T> a;
  Operand<T, 4> y;
  Operand<T, 3> log_sum;
};

/// With p the attention of query t to key s:
///   dscore = scale·p·(dy_t·v_s − dy_t·y_t)
///   dv_s += p·dy_t    dq_t += dscore·k_s    dk_s += dscore·q_t
template <class T>
struct AttentionGradient {
  SSM_DEVICE T weight(Index b, Index t, Index row, Index s, Index h, Lanes lanes) const {
    return std::exp(a.score(b, t, row, s, h, lanes) - log_sum(b, t, h));
  }
  SSM_DEVICE T dscore(Index b, Index t, Index row, Index s, Index h, T p, T aligned_t,
                      Lanes lanes) const {
    const T toward =
        lanes.sum(a.width, [&](Index c) { return dy(b, t, h, c) * a.v(row, s, h, c); });
    return a.scale * p * (toward - aligned_t);
  }
  SSM_DEVICE T& aligned(Index b, Index t, Index h) const {
    return workspace[(b * a.sequences.packing.length + t) * a.heads + h];
  }

  AttentionOperands<T> a;
  Operand<const T, 4> dy;
  Operand<const T, 3> log_sum;
  T* workspace;  // [B, L, H]: dy·y
};

template <class T>
struct AttentionQueryGradient {
  SSM_DEVICE void operator()(Index row, Lanes lanes) const {
    const auto& a = g.a;
    const Index h = row % a.heads;
    const Index t = row / a.heads % a.sequences.packing.length;
    const Index b = row / a.heads / a.sequences.packing.length;
    const Sequence sequence = a.sequences.packing.sequence_with(b, t);
    const AttentionKeys keys = a.sequences.keys(sequence);
    const Index begin = keys.begin;
    const Index end = begin + keys.cached + t - sequence.begin + 1;
    const T aligned = lanes.sum(a.width, [&](Index c) { return g.dy(b, t, h, c) * y(b, t, h, c); });
    if (lanes.first()) g.aligned(b, t, h) = aligned;
    for (Index first = begin; first < end; first += kAttentionBlock) {
      T dscore[kAttentionBlock];
      SSM_UNROLL
      for (int i = 0; i < kAttentionBlock; ++i) {
        dscore[i] = T{0};
        if (first + i >= end) continue;
        const T p = g.weight(b, t, keys.batch, first + i, h, lanes);
        dscore[i] = g.dscore(b, t, keys.batch, first + i, h, p, aligned, lanes);
      }
      lanes.each(a.width, [&](Index c) {
        T sum = first == begin ? T{0} : dq(b, t, h, c);
        SSM_UNROLL
        for (int i = 0; i < kAttentionBlock; ++i)
          if (first + i < end) sum += dscore[i] * a.k(keys.batch, first + i, h, c);
        dq(b, t, h, c) = sum;
      });
    }
  }

  AttentionGradient<T> g;
  Operand<const T, 4> y;
  Operand<T, 4> dq;
};

template <class T>
struct AttentionKeyGradient {
  SSM_DEVICE void operator()(Index index, Lanes lanes) const {
    const auto& a = g.a;
    const Index h = index % a.heads;
    const Index s = index / a.heads % a.positions;
    const Index row = index / a.heads / a.positions;
    const Queries queries = queries_of(row, s);
    const Index b = queries.batch;
    lanes.each(a.width, [&](Index c) { dk(row, s, h, c) = dv(row, s, h, c) = T{0}; });
    for (Index first = queries.begin; first < queries.end; first += kAttentionBlock) {
      T weight[kAttentionBlock];
      T dscore[kAttentionBlock];
      SSM_UNROLL
      for (int i = 0; i < kAttentionBlock; ++i) {
        weight[i] = dscore[i] = T{0};
        if (first + i >= queries.end) continue;
        weight[i] = g.weight(b, first + i, row, s, h, lanes);
        dscore[i] = g.dscore(b, first + i, row, s, h, weight[i], g.aligned(b, first + i, h), lanes);
      }
      lanes.each(a.width, [&](Index c) {
        T sum_k = dk(row, s, h, c);
        T sum_v = dv(row, s, h, c);
        SSM_UNROLL
        for (int i = 0; i < kAttentionBlock; ++i) {
          if (first + i >= queries.end) continue;
          sum_k += dscore[i] * a.q(b, first + i, h, c);
          sum_v += weight[i] * g.dy(b, first + i, h, c);
        }
        dk(row, s, h, c) = sum_k;
        dv(row, s, h, c) = sum_v;
      });
    }
  }

  /// The queries begin … end−1 of batch row `batch`, which see a key; none where nothing reads it.
  struct Queries {
    Index batch;
    Index begin;
    Index end;
  };
  SSM_DEVICE Queries queries_of(Index row, Index s) const {
    const auto& a = g.a;
    if (a.sequences.packing.length == 0) return {0, 0, 0};
    if (a.sequences.cached_of != nullptr) {
      const Sequence sequence = a.sequences.packing.sequence(row);
      const Index cached = a.sequences.keys(sequence).cached;
      return {sequence.batch, sequence.begin + (s > cached ? s - cached : 0), sequence.end};
    }
    const Index begin = s > a.sequences.cached ? s - a.sequences.cached : 0;
    return {row, begin, a.sequences.packing.sequence_with(row, begin).end};
  }

  AttentionGradient<T> g;
  Operand<T, 4> dk, dv;
};

/// One pair of channels of every head at one position, or one channel that stays.
template <class T>
struct RotaryElement {
  SSM_DEVICE void operator()(Index index) const {
    const Index j = index % places;
    const Index t = index / places % packing.length;
    const Index b = index / places / packing.length;
    if (j >= half) {
      for (Index h = 0; h < heads; ++h) y(b, t, h, j + half) = x(b, t, h, j + half);
      return;
    }
    const Sequence sequence = packing.sequence_with(b, t);
    const Index first =
        position_of != nullptr ? static_cast<Index>(position_of[sequence.row]) : position;
    const double frequency =
        std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(2 * half));
    const double angle = static_cast<double>(direction * (first + t - sequence.begin)) * frequency;
    const double cosine = std::cos(angle);
    const double sine = std::sin(angle);
    for (Index h = 0; h < heads; ++h) {
      const double left = widened(x(b, t, h, j));
      const double right = widened(x(b, t, h, j + half));
      y(b, t, h, j) = narrowed<T>(static_cast<Wide<T>>(left * cosine - right * sine));
      y(b, t, h, j + half) = narrowed<T>(static_cast<Wide<T>>(right * cosine + left * sine));
    }
  }

  Operand<const T, 4> x;
  Operand<T, 4> y;
  Packing packing;
  Index heads;
  Index half;
  Index places;                     // half pairs and the channels that stay
  const std::int64_t* position_of;  // by sequence, or null: `position` for all
  Index position;
  Index direction;
  double base;
};

}  // namespace
}  // namespace device

template <class T>
void attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
               const std::int64_t* cached, Stream stream) {
  using namespace device;
  const Index rows = a.q.extent(0) * a.q.extent(1) * a.q.extent(2);
  for_each_row(
      rows, stream, "attention",
      AttentionRow<T>{AttentionOperands<T>(a, segments, cached), operand(a.y), operand(a.log_sum)});
}

template <class T>
void attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g, DeviceSegments segments,
                        const std::int64_t* cached, T* workspace, Stream stream) {
  using namespace device;
  const char* const operation = "attention_backward";
  const auto& a = g.forward;
  const AttentionGradient<T> gradient{AttentionOperands<T>(a, segments, cached), operand(g.dy),
                                      operand(g.log_sum), workspace};
  const Index queries = a.q.extent(0) * a.q.extent(1) * a.q.extent(2);
  const Index keys = a.k.extent(0) * a.k.extent(1) * a.k.extent(2);
  for_each_row(queries, stream, operation,
               AttentionQueryGradient<T>{gradient, operand(g.y), operand(g.dq)});
  for_each_row(keys, stream, operation,
               AttentionKeyGradient<T>{gradient, operand(g.dk), operand(g.dv)});
}

template <class T>
void rotary(const ssm::Rotary<T, CudaSpace>& a, DeviceSegments segments,
            const std::int64_t* positions, Stream stream) {
  using namespace device;
  const Index half = a.dimension / 2;
  const Index places = a.x.extent(3) - half;
  for_each_index(a.x.extent(0) * a.x.extent(1) * places, stream, "rotary",
                 RotaryElement<T>{operand(a.x), operand(a.y),
                                  Packing(segments, a.x.extent(0), a.x.extent(1)), a.x.extent(2),
                                  half, places, positions, a.position, Index{a.direction}, a.base});
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void attention<T>(const ssm::Attention<T, CudaSpace>&, DeviceSegments,  \
                                          const std::int64_t*, Stream);                         \
  template SSM_CUDA_API void attention_backward<T>(const ssm::AttentionBackward<T, CudaSpace>&, \
                                                   DeviceSegments, const std::int64_t*, T*,     \
                                                   Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE
#define SSM_INSTANTIATE(T)                                                               \
  template SSM_CUDA_API void rotary<T>(const ssm::Rotary<T, CudaSpace>&, DeviceSegments, \
                                       const std::int64_t*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
