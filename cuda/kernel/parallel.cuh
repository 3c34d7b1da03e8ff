// SPDX-License-Identifier: Apache-2.0
#pragma once

// Loops over independent indices and over rows, as kernels; compiled by a C++ compiler alone they
// are plain loops, so that the arithmetic of kernels written with them is tested on machines
// without a device.

#include <cmath>

#include "ssm/backend/cuda/launch.hpp"
#include "ssm/core/tensor_view.hpp"

#ifdef __CUDACC__
#include "device/launch.cuh"
#define SSM_DEVICE __device__
#define SSM_HOST_DEVICE __host__ __device__
#else
#define SSM_DEVICE
#define SSM_HOST_DEVICE
#endif

namespace ssm::cuda::device {

/// A view that kernels index.
template <class T, int Rank>
struct Operand {
  T* data = nullptr;
  Index strides[Rank > 0 ? Rank : 1] = {};

  SSM_HOST_DEVICE explicit operator bool() const { return data != nullptr; }
  template <class... I>
  SSM_HOST_DEVICE T& operator()(I... index) const {
    static_assert(sizeof...(I) == Rank);
    Index offset = 0;
    int axis = 0;
    ((offset += static_cast<Index>(index) * strides[axis++]), ...);
    return data[offset];
  }
};
template <class T, class E, class S>
Operand<T, E::rank()> operand(const TensorView<T, E, S>& view) {
  Operand<T, E::rank()> result;
  result.data = view.data();
  for (int axis = 0; axis < E::rank(); ++axis) result.strides[axis] = view.stride(axis);
  return result;
}

#ifdef __CUDACC__

/// The threads that share a row: one warp. `total`, `sum` and `max` give every lane the same
/// result, in one order of additions.
struct Lanes {
  static constexpr Index count = 32;
  template <class F>
  __device__ void each(Index n, F f) const {
    for (Index i = index(); i < n; i += count) f(i);
  }
  /// each(n, f) with `Unroll` rounds under way at a time.
  template <int Unroll, class F>
  __device__ void each_unrolled(Index n, F f) const {
#pragma unroll Unroll
    for (Index i = index(); i < n; i += count) f(i);
  }
  /// The sum of all lanes' values.
  template <class T>
  __device__ T total(T value) const {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
  }
  template <class F>
  __device__ auto sum(Index n, F f) const {
    decltype(f(Index{0})) own{};
#pragma unroll 8  // so that as many loads are under way
    for (Index i = index(); i < n; i += count) own += f(i);
    return total(own);
  }
  template <class F>
  __device__ auto max(Index n, F f) const {
    using T = decltype(f(Index{0}));
    T best = static_cast<T>(-INFINITY);
    for (Index i = index(); i < n; i += count) {
      const T value = f(i);
      if (value > best) best = value;
    }
    for (int step = 16; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(0xffffffffu, best, step);
      if (other > best) best = other;
    }
    return best;
  }
  /// write(i, the sum of all lanes' values[i]) for every i < Count, each in one lane and always in
  /// the same. Count is a power of two, 32 at most; values are overwritten.
  template <int Count, class T, class F>
  __device__ void totals(T (&values)[Count], F write) const {
    const int lane = static_cast<int>(threadIdx.x & 31);
    int number = 0;  // of the value that this lane ends with
#pragma unroll
    for (int half = Count / 2, bit = 1; half > 0; half /= 2, bit *= 2) {
      const bool upper = (lane & bit) != 0;
      number += upper ? half : 0;
#pragma unroll
      for (int i = 0; i < half; ++i) {
        const T given = upper ? values[i] : values[i + half];
        const T kept = upper ? values[i + half] : values[i];
        values[i] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
      }
    }
#pragma unroll
    for (int bit = Count; bit < 32; bit *= 2)
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], bit);
    if (lane < Count) write(number, values[0]);
  }
  /// The lane's number, from 0 to count − 1.
  __device__ Index index() const { return static_cast<Index>(threadIdx.x & 31); }
  /// True in one lane of the row.
  __device__ bool first() const { return index() == 0; }
  /// Lanes see what the others wrote before.
  __device__ void wait() const { __syncwarp(); }
};

template <class F>
__global__ void index_kernel(Index count, F f) {
  const Index step = static_cast<Index>(gridDim.x) * blockDim.x;
  for (Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    f(i);
}
template <class F>
__global__ void row_kernel(Index rows, F f) {
  const Index step = static_cast<Index>(gridDim.x) * (blockDim.x / 32);
  for (Index row = static_cast<Index>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       row < rows; row += step)
    f(row, Lanes());
}

inline dim3 grid_for(Index units, Index units_per_block) {
  const Index blocks = (units + units_per_block - 1) / units_per_block;
  return dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
}

/// f(i) for every i < count, in any order.
template <class F>
void for_each_index(Index count, Stream stream, const char* operation, F f) {
  if (count > 0) launch(index_kernel<F>, grid_for(count, 256), 256, 0, stream, operation, count, f);
}
/// f(row, lanes) for every row < rows, in any order; the lanes of a row work together.
template <class F>
void for_each_row(Index rows, Stream stream, const char* operation, F f) {
  if (rows > 0) launch(row_kernel<F>, grid_for(rows, 4), 128, 0, stream, operation, rows, f);
}

#else

struct Lanes {
  static constexpr Index count = 1;
  template <class F>
  void each(Index n, F f) const {
    for (Index i = 0; i < n; ++i) f(i);
  }
  template <int Unroll, class F>
  void each_unrolled(Index n, F f) const {
    each(n, f);
  }
  template <class T>
  T total(T value) const {
    return value;
  }
  template <class F>
  auto sum(Index n, F f) const {
    decltype(f(Index{0})) total{};
    for (Index i = 0; i < n; ++i) total += f(i);
    return total;
  }
  template <class F>
  auto max(Index n, F f) const {
    auto best = static_cast<decltype(f(Index{0}))>(-INFINITY);
    for (Index i = 0; i < n; ++i) best = f(i) > best ? f(i) : best;
    return best;
  }
  template <int Count, class T, class F>
  void totals(T (&values)[Count], F write) const {
    for (int i = 0; i < Count; ++i) write(i, values[i]);
  }
  Index index() const { return 0; }
  bool first() const { return true; }
  void wait() const {}
};
template <class F>
void for_each_index(Index count, Stream, const char*, F f) {
  for (Index i = 0; i < count; ++i) f(i);
}
template <class F>
void for_each_row(Index rows, Stream, const char*, F f) {
  for (Index row = 0; row < rows; ++row) f(row, Lanes());
}

#endif

}  // namespace ssm::cuda::device
