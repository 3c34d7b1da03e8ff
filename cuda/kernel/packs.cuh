// SPDX-License-Identifier: Apache-2.0
#pragma once

// Neighbors of a row in packs of 16 bytes: one load or store each, where addresses allow it.

#include <cstdint>
#include <type_traits>

#include "kernel/half_numbers.cuh"
#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
#include "kernel/unroll.cuh"

namespace ssm::cuda::device {

/// Numbers in 16 bytes.
template <class T>
inline constexpr int pack_size = static_cast<int>(16 / sizeof(T));

namespace detail {

/// Numbers as they lie in memory.
template <class T>
struct alignas(16) RawPack {
  T values[pack_size<T>];
};

/// pack_size<T> numbers at an address that 16 divides.
template <class T, class S>
SSM_HOST_DEVICE void read_pack(const T* from, S* values) {
  const auto raw = *reinterpret_cast<const RawPack<T>*>(from);
  SSM_UNROLL
  for (int i = 0; i < pack_size<T>; ++i) values[i] = widened(raw.values[i]);
}
template <class T, class S>
SSM_HOST_DEVICE void write_pack(T* to, const S* values) {
#ifdef __CUDA_ARCH__  // where plain stores of a vector come apart
  if constexpr (sizeof(T) == 2) {
    unsigned words[4];
    SSM_UNROLL
    for (int i = 0; i < 4; ++i)
      words[i] = narrowed<T>(values[2 * i]).bits() |
                 static_cast<unsigned>(narrowed<T>(values[2 * i + 1]).bits()) << 16;
    *reinterpret_cast<uint4*>(to) = uint4{words[0], words[1], words[2], words[3]};
  } else if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(to) = float4{values[0], values[1], values[2], values[3]};
  } else {
    *reinterpret_cast<double2*>(to) = double2{values[0], values[1]};
  }
#else
  for (int i = 0; i < pack_size<T>; ++i) to[i] = narrowed<T>(values[i]);
#endif
}

}  // namespace detail

/// values[i] = x[i · stride] for i < count ≤ N, and 0 for the rest. Where count is N, the numbers
/// are packs as has_packs says.
template <int N, class T, class S>
SSM_HOST_DEVICE void read_neighbors(const T* x, Index stride, Index count, S (&values)[N]) {
  if (count == N) {
    SSM_UNROLL
    for (int i = 0; i < N; i += pack_size<T>) detail::read_pack(x + i, values + i);
    return;
  }
  SSM_UNROLL
  for (int i = 0; i < N; ++i) values[i] = i < count ? static_cast<S>(widened(x[i * stride])) : S{0};
}
/// x[i · stride] = values[i] for i < count ≤ N, likewise.
template <int N, class T, class S>
SSM_HOST_DEVICE void write_neighbors(T* x, Index stride, Index count, const S (&values)[N]) {
  if (count == N) {
    SSM_UNROLL
    for (int i = 0; i < N; i += pack_size<T>) detail::write_pack(x + i, values + i);
    return;
  }
  SSM_UNROLL
  for (int i = 0; i < N; ++i)
    if (i < count) x[i * stride] = narrowed<T>(values[i]);
}

/// f(count), which of a full run is a constant: between its loads there is no branch, and all are
/// on their way at once.
template <int N, class F>
SSM_HOST_DEVICE void with_full_run(Index count, F f) {
  if (count == N)
    f(std::integral_constant<Index, N>());
  else
    f(count);
}

/// Whether rows of the view, or it is null, are contiguous and begin at addresses that 16 divides.
template <class T, class E, class S>
bool has_packs(const TensorView<T, E, S>& x) {
  constexpr int last = E::rank() - 1;
  constexpr int size = pack_size<std::remove_const_t<T>>;
  if (!x) return true;
  if (x.stride(last) != 1 || reinterpret_cast<std::uintptr_t>(x.data()) % 16 != 0) return false;
  for (int axis = 0; axis < last; ++axis)
    if (x.extent(axis) != 1 && x.stride(axis) % size != 0) return false;
  return true;
}

/// The elements of matrices of one shape in runs of N neighbors, or one by one where a matrix has
/// no packs.
template <int N>
struct MatrixRuns {
  struct Run {
    Index row;
    Index column;
    Index count;
  };

  Index length;  // N or 1
  Index width;
  MatrixElements runs;

  SSM_HOST_DEVICE Index count() const { return runs.count; }
  SSM_HOST_DEVICE Run at(Index i) const {
    const auto [row, run] = runs.at(i);
    const Index column = run * length;
    return {row, column, width - column < length ? width - column : length};
  }
};
template <int N, class... Views>
MatrixRuns<N> matrix_runs(Index rows, Index width, const Views&... views) {
  if (!(has_packs(views) && ...)) {
    const MatrixElements elements = matrix_elements(rows, width, views...);
    return {1, elements.width, elements};
  }
  const bool flat = matrix_elements(rows, width, views...).width != width;
  const Index columns = flat ? rows * width : width;
  const Index runs = (columns + N - 1) / N;
  return {N, columns, matrix_elements(flat ? 1 : rows, runs)};
}

/// A row of `width` numbers in runs of N, or one by one.
template <int N>
struct RowRuns {
  Index length;  // N or 1
  Index width;

  SSM_HOST_DEVICE Index count() const { return length == 1 ? width : (width + N - 1) / N; }
  SSM_HOST_DEVICE Index first(Index run) const { return run * length; }
  SSM_HOST_DEVICE Index size(Index run) const {
    const Index left = width - run * length;
    return left < length ? left : length;
  }
};
template <int N, class... Views>
RowRuns<N> row_runs(Index width, const Views&... views) {
  return {(has_packs(views) && ...) ? N : 1, width};
}

}  // namespace ssm::cuda::device
