// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/sum_slices.hpp"

namespace ssm::cuda::device {

/// partial[s] = Σ value(i) over slice s of `count` summands.
template <class F>
struct SliceSum {
  Index count;
  SumSlices slices;
  double* partial;
  F value;

  SSM_DEVICE double sum(Index slice, Lanes lanes) const {
    const Index begin = slice * slices.length;
    const Index left = count - begin;
    return lanes.sum(left < slices.length ? left : slices.length,
                     [&](Index i) { return static_cast<double>(value(begin + i)); });
  }
  SSM_DEVICE void operator()(Index slice, Lanes lanes) const {
    const double total = sum(slice, lanes);
    if (lanes.first()) partial[slice] = total;
  }
};

/// finish(Σ value(i)) of a sum that is one slice.
template <class Value, class Finish>
struct ShortSum {
  SliceSum<Value> slices;
  Finish finish;

  SSM_DEVICE void operator()(Index, Lanes lanes) const {
    const double total = slices.sum(0, lanes);
    if (lanes.first()) finish(total);
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

/// finish(Σ_{i < count} value(i)), added in double precision in an order that depends on `count`
/// alone.
/// partial   [sum_slices(count).count]   scratch
template <class Value, class Finish>
void ordered_sum(Index count, double* partial, Stream stream, const char* operation, Value value,
                 Finish finish) {
  const SumSlices slices = sum_slices(count);
  const SliceSum<Value> sums{count, slices, partial, value};
  if (slices.count <= 1)
    return for_each_row(Index{1}, stream, operation, ShortSum<Value, Finish>{sums, finish});
  for_each_row(slices.count, stream, operation, sums);
  for_each_row(Index{1}, stream, operation, PartialSum<Finish>{slices.count, partial, finish});
}

}  // namespace ssm::cuda::device
