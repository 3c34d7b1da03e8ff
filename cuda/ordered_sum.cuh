// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "parallel.cuh"
#include "ssm/backend/cuda/sum_slices.hpp"

namespace ssm::cuda::device {

/// partial[s] = Σ value(i) over slice s of `count` summands.
template <class F>
struct SliceSum {
  Index count;
  SumSlices slices;
  double* partial;
  F value;

  SSM_DEVICE void operator()(Index slice, Lanes lanes) const {
    const Index begin = slice * slices.length;
    const Index left = count - begin;
    const double sum = lanes.sum(left < slices.length ? left : slices.length,
                                 [&](Index i) { return static_cast<double>(value(begin + i)); });
    if (lanes.first()) partial[slice] = sum;
  }
};

/// finish(Σ value(i)), called once.
template <class F>
struct PartialSum {
  Index count;
  const double* partial;
  F finish;

  SSM_DEVICE void operator()(Index, Lanes lanes) const {
    const double sum = lanes.sum(count, [&](Index slice) { return partial[slice]; });
    if (lanes.first()) finish(sum);
  }
};

/// finish(Σ_{i < count} value(i)), added in double precision in an order that depends on `count` alone.
/// partial   [sum_slices(count).count]   scratch
template <class Value, class Finish>
void ordered_sum(Index count, double* partial, Stream stream, const char* operation, Value value,
                 Finish finish) {
  const SumSlices slices = sum_slices(count);
  for_each_row(slices.count, stream, operation, SliceSum<Value>{count, slices, partial, value});
  for_each_row(Index{1}, stream, operation, PartialSum<Finish>{slices.count, partial, finish});
}

}  // namespace ssm::cuda::device
