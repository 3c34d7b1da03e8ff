// SPDX-License-Identifier: Apache-2.0
#pragma once

// Loops over independent indices and over rows, as kernels; compiled by a C++ compiler alone they
// are plain loops, so that the arithmetic of kernels written with them is tested on machines
// without a device.

#include <cmath>

#include "kernel/prefetch.cuh"
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

/// Threads of a block whose warps have a row each, and of one whose threads have an index each.
inline constexpr int row_threads = 128;
inline constexpr int index_threads = 256;

/// The threads that share a row: one warp. `total`, `sum` and `max` give every lane the same
/// result, in one order of additions.
struct Lanes {
  static constexpr Index count = 32;
  template <class F>
  __device__ void each(Index n, F f) const {
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
    const int number = exchange_halves<Count / 2>(values, lane);
#pragma unroll
    for (int bit = Count; bit < 32; bit *= 2)
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], bit);
    if (lane < Count) write(number, values[0]);
  }
  /// The first i < n at which the sum of part(0 … i), added to `sum`, passes `target`; where
  /// rounding leaves none, the last part that is not zero. `sum` becomes what comes before it. The
  /// same in every lane.
  template <class F>
  __device__ Index find_part(Index n, double target, double& sum, F part) const {
    Index found = 0;
    double before = sum, end = sum;
    for (Index first = 0; first < n; first += count) {
      const Index i = first + index();
      const double own = i < n ? part(i) : 0.0;
      double through = own;  // Σ of the lanes up to this one
      for (int step = 1; step < 32; step *= 2) {
        const double lower = __shfl_up_sync(0xffffffffu, through, static_cast<unsigned>(step));
        if (index() >= step) through += lower;
      }
      const unsigned counted = __ballot_sync(0xffffffffu, own != 0);
      const unsigned passed = __ballot_sync(0xffffffffu, own != 0 && target < end + through);
      if (counted != 0) {
        const int lane = passed != 0 ? __ffs(static_cast<int>(passed)) - 1
                                     : 31 - __clz(static_cast<int>(counted));
        found = first + lane;
        before = end + __shfl_sync(0xffffffffu, through - own, lane);
      }
      if (passed != 0) break;
      end += __shfl_sync(0xffffffffu, through, 31);
    }
    sum = before;
    return found;
  }
  /// The lane's number, from 0 to count − 1.
  __device__ Index index() const { return static_cast<Index>(threadIdx.x & 31); }
  /// True in one lane of the row.
  __device__ bool first() const { return index() == 0; }
  /// Lanes see what the others wrote before.
  __device__ void wait() const { __syncwarp(); }
  /// Room for numbers that the lanes of a row share.
  template <class T, int Count>
  __device__ T* shared() const {
    __shared__ T numbers[row_threads / 32][Count];
    return numbers[threadIdx.x / 32];
  }

 private:
  /// Lanes whose numbers differ in one bit give each other half of 2·Half values, add what they
  /// keep, and go on with the next bit. Returns which value a lane ends with, in values[0].
  template <int Half, int Bit = 1, int Count, class T>
  __device__ static int exchange_halves(T (&values)[Count], int lane) {
    if constexpr (Half == 0) {
      return 0;
    } else {
      const bool upper = (lane & Bit) != 0;
#pragma unroll
      for (int i = 0; i < Half; ++i) {
        const T given = upper ? values[i] : values[i + Half];
        const T kept = upper ? values[i + Half] : values[i];
        values[i] = kept + __shfl_xor_sync(0xffffffffu, given, Bit);
      }
      return (upper ? Half : 0) + exchange_halves<Half / 2, 2 * Bit>(values, lane);
    }
  }
};

/// The threads that share a row that would keep one warp long: a block of `Threads`. Totals are as
/// those of a warp.
template <int Threads>
struct BlockLanes {
  static constexpr Index count = Threads;
  static constexpr int warps = Threads / 32;
  template <class T>
  __device__ T total(T value) const {
    __shared__ T parts[warps];
    value = Lanes().total(value);
    if (Lanes().first()) parts[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = parts[0];
#pragma unroll
    for (int warp = 1; warp < warps; ++warp) sum += parts[warp];
    __syncthreads();
    return sum;
  }
  template <class F>
  __device__ auto max(Index n, F f) const {
    using T = decltype(f(Index{0}));
    __shared__ T parts[warps];
    T best = static_cast<T>(-INFINITY);
    for (Index i = index(); i < n; i += count) best = f(i) > best ? f(i) : best;
    best = Lanes().max(Lanes::count, [&](Index) { return best; });
    if (Lanes().first()) parts[warp()] = best;
    __syncthreads();
    best = parts[0];
#pragma unroll
    for (int i = 1; i < warps; ++i) best = parts[i] > best ? parts[i] : best;
    __syncthreads();
    return best;
  }
  /// The sums of all lanes' values[i], which every lane is given.
  template <int Count, class T>
  __device__ void total_each(T (&values)[Count]) const {
    __shared__ T parts[warps][Count];
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      values[i] = Lanes().total(values[i]);
      if (Lanes().first()) parts[warp()][i] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      values[i] = parts[0][i];
#pragma unroll
      for (int warp = 1; warp < warps; ++warp) values[i] += parts[warp][i];
    }
    __syncthreads();
  }
  template <int Count, class T, class F>
  __device__ void totals(T (&values)[Count], F write) const {
    __shared__ T parts[warps][Count];
    Lanes().totals(values, [&](int i, T total) { parts[threadIdx.x / 32][i] = total; });
    __syncthreads();
    const int i = static_cast<int>(threadIdx.x);
    if (i < Count) {
      T sum = parts[0][i];
#pragma unroll
      for (int warp = 1; warp < warps; ++warp) sum += parts[warp][i];
      write(i, sum);
    }
    __syncthreads();
  }
  __device__ Index index() const { return static_cast<Index>(threadIdx.x); }
  __device__ bool first() const { return index() == 0; }
  /// The number of the warp that a lane is of; its 32 lanes are those of Lanes().
  __device__ Index warp() const { return static_cast<Index>(threadIdx.x / 32); }
  __device__ void wait() const { __syncthreads(); }
  template <class T, int Count>
  __device__ T* shared() const {
    __shared__ alignas(16) T numbers[Count];
    return numbers;
  }
};

template <class F>
__device__ void run_indices(Index count, const F& f) {
  let_successor_begin();
  wait_for_predecessors();
  const Index step = static_cast<Index>(gridDim.x) * blockDim.x;
  for (Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    f(i);
}
template <class F>
__global__ void index_kernel(Index count, F f) {
  run_indices(count, f);
}
/// So many blocks are resident on a multiprocessor at least, whatever registers that leaves.
template <class F>
__global__ void __launch_bounds__(index_threads, F::resident_blocks)
    resident_index_kernel(Index count, F f) {
  run_indices(count, f);
}
/// A row f may prefetch what it reads, in f.prefetch(row, lanes), while its predecessors run.
template <class F, class L>
__device__ void prefetch_row(const F& f, Index row, Index rows, L lanes) {
  if constexpr (requires { f.prefetch(row, lanes); }) {
    if (row < rows) f.prefetch(row, lanes);
  }
}
template <class F>
__device__ void run_rows(Index rows, const F& f) {
  const Index step = static_cast<Index>(gridDim.x) * (blockDim.x / 32);
  Index row = static_cast<Index>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  let_successor_begin();
  prefetch_row(f, row, rows, Lanes());
  wait_for_predecessors();
  for (; row < rows; row += step) f(row, Lanes());
}
template <class F>
__global__ void __launch_bounds__(row_threads) row_kernel(Index rows, F f) {
  run_rows(rows, f);
}
template <class F>
__global__ void __launch_bounds__(row_threads, F::resident_blocks)
    resident_row_kernel(Index rows, F f) {
  run_rows(rows, f);
}
/// An f with a type Ahead reads a part of a row in f.ask(row, lanes, ahead) while predecessors run;
/// each of its rows has a block.
template <int Threads, class F>
__global__ void __launch_bounds__(Threads) block_kernel(Index rows, F f) {
  const BlockLanes<Threads> lanes;
  Index row = blockIdx.x;
  let_successor_begin();
  if constexpr (requires { typename F::Ahead; }) {
    typename F::Ahead ahead;
    f.ask(row, lanes, ahead);
    wait_for_predecessors();
    f(row, lanes, ahead);
  } else {
    prefetch_row(f, row, rows, lanes);
    wait_for_predecessors();
    for (; row < rows; row += gridDim.x) f(row, lanes);
  }
}

inline dim3 grid_for(Index units, Index units_per_block) {
  const Index blocks = (units + units_per_block - 1) / units_per_block;
  return dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536));
}

/// f(i) for every i < count, in any order.
template <class F>
void for_each_index(Index count, Stream stream, const char* operation, F f) {
  const auto run = [&](auto kernel) {
    launch_early<F>(kernel, grid_for(count, index_threads), index_threads, stream, operation, count,
                    f);
  };
  if (count <= 0) return;
  if constexpr (requires { F::resident_blocks; })
    run(resident_index_kernel<F>);
  else
    run(index_kernel<F>);
}
/// f(row, lanes) for every row < rows, in any order; the lanes of a row work together.
template <class F>
void for_each_row(Index rows, Stream stream, const char* operation, F f) {
  const auto run = [&](auto kernel) {
    launch_early<F>(kernel, grid_for(rows, row_threads / 32), row_threads, stream, operation, rows,
                    f);
  };
  if (rows <= 0) return;
  if constexpr (requires { F::resident_blocks; })
    run(resident_row_kernel<F>);
  else
    run(row_kernel<F>);
}
/// f(row, lanes) likewise, where the lanes of a row are the threads of a block.
template <int Threads, class F>
void for_each_block(Index rows, Stream stream, const char* operation, F f) {
  if (rows <= 0) return;
  dim3 grid = grid_for(rows, 1);
  if constexpr (requires { typename F::Ahead; }) grid = dim3(static_cast<unsigned>(rows));
  launch_early<F>(block_kernel<Threads, F>, grid, Threads, stream, operation, rows, f);
}

#else

struct Lanes {
  static constexpr Index count = 1;
  template <class F>
  void each(Index n, F f) const {
    for (Index i = 0; i < n; ++i) f(i);
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
  template <int Count, class T>
  void total_each(T (&)[Count]) const {}
  template <int Count, class T, class F>
  void totals(T (&values)[Count], F write) const {
    for (int i = 0; i < Count; ++i) write(i, values[i]);
  }
  template <class F>
  Index find_part(Index n, double target, double& sum, F part) const {
    Index found = 0;
    double before = sum, end = sum;
    for (Index i = 0; i < n; ++i) {
      const double own = part(i);
      if (own == 0) continue;
      found = i;
      before = end;
      end += own;
      if (target < end) break;
    }
    sum = before;
    return found;
  }
  static constexpr int warps = 1;
  Index warp() const { return 0; }
  Index index() const { return 0; }
  bool first() const { return true; }
  void wait() const {}
  template <class T, int Count>
  T* shared() const {
    alignas(16) static thread_local T numbers[Count];
    return numbers;
  }
};
template <int Threads>
using BlockLanes = Lanes;
template <class F>
void for_each_index(Index count, Stream, const char*, F f) {
  for (Index i = 0; i < count; ++i) f(i);
}
template <class F>
void for_each_row(Index rows, Stream, const char*, F f) {
  for (Index row = 0; row < rows; ++row) f(row, Lanes());
}
template <int Threads, class F>
void for_each_block(Index rows, Stream stream, const char* operation, F f) {
  if constexpr (requires { typename F::Ahead; }) {
    for (Index row = 0; row < rows; ++row) {
      typename F::Ahead ahead;
      f.ask(row, Lanes(), ahead);
      f(row, Lanes(), ahead);
    }
  } else {
    for_each_row(rows, stream, operation, f);
  }
}

#endif

}  // namespace ssm::cuda::device
