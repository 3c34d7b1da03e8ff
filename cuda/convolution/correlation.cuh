// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/packing.cuh"
#include "ssm/backend/cuda/correlation.hpp"

namespace ssm::cuda::device {

/// partial[c, lag, d] = Σ_t left(b,t,d)·right(b,t−lag,d) over chunk c of the batch's positions,
/// both in one sequence.
/// Left, Right   function objects of (b, t, d)
template <class T, class Left, class Right>
struct CorrelationChunk {
  static constexpr Index run = 256;  // positions summed in T before they go to a double

  SSM_DEVICE void operator()(Index i) const {
    const Index d = lags_fastest ? i / lags % channels : i % channels;
    const Index lag = lags_fastest ? i % lags : i / channels % lags;
    const Index chunk = i / channels / lags;
    const Index stop =
        (chunk + 1) * chunk_length < positions ? (chunk + 1) * chunk_length : positions;
    double total = 0;
    for (Index at = chunk * chunk_length; at < stop;) {
      const Index b = at / packing.length;
      const Index t = at % packing.length;
      const Sequence s = packing.sequence_with(b, t);
      const Index left_over = stop - at < run ? stop - at : run;
      const Index end = s.end - t < left_over ? s.end : t + left_over;
      T sum{0};
      for (Index u = t - s.begin < lag ? s.begin + lag : t; u < end; ++u)
        sum += left(b, u, d) * right(b, u - lag, d);
      total += sum;
      at += end - t;
    }
    partial[(chunk * lags + lag) * channels + d] = static_cast<T>(total);
  }

  Left left;
  Right right;
  Packing packing;
  Index channels;
  Index lags;
  Index positions;
  Index chunk_length;
  bool lags_fastest;
  T* partial;
};

/// Adds the chunks' parts in order and calls add(lag, d, sum).
template <class T, class Add>
struct CorrelationSum {
  SSM_DEVICE void operator()(Index i) const {
    double sum = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * outputs + i];
    add(i / channels, i % channels, sum);
  }
  const T* partial;
  Index outputs;
  Index channels;
  Index chunks;
  Add add;
};

/// Calls add(lag, d, Σ_t left(b,t,d)·right(b,t−lag,d)) for every lag and channel.
/// workspace   shape.workspace() scalars
template <class T, class Left, class Right, class Add>
void correlate(const Correlation& shape, const Packing& packing, bool lags_fastest, Left left,
               Right right, T* workspace, Stream stream, const char* operation, Add add) {
  const Index outputs = shape.lags * shape.channels;
  for_each_index(shape.chunks() * outputs, stream, operation,
                 CorrelationChunk<T, Left, Right>{left, right, packing, shape.channels, shape.lags,
                                                  shape.positions, shape.chunk_length(),
                                                  lags_fastest, workspace});
  for_each_index(outputs, stream, operation,
                 CorrelationSum<T, Add>{workspace, outputs, shape.channels, shape.chunks(), add});
}

}  // namespace ssm::cuda::device
