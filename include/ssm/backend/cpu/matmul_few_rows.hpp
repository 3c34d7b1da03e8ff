// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/matmul_epilogue.hpp"
#include "ssm/backend/cpu/parallel.hpp"

namespace ssm::cpu {

/// Matmul where a has few rows and the columns of b are contiguous, as in y = x·Wᵀ for a handful of tokens: the weights are
/// read once, unpacked, at the speed of memory.
template <class T, class Arch>
class MatmulFewRows {
 public:
  static constexpr Index most_rows = 16;

  static bool applies(const ssm::Matmul<T, HostSpace>& a) {
    return a.a.extent(0) <= most_rows && a.b.stride(0) == 1 && a.a.stride(1) == 1;
  }

  static void run(int threads, const ssm::Matmul<T, HostSpace>& a) {
    const Index columns = a.b.extent(1);
    const Index work = a.a.extent(0) * a.a.extent(1);
    parallel(threads, (columns + width - 1) / width,
             std::max<Index>(1, 16384 / std::max<Index>(1, work)), [&](Range range, int) {
               for (Index i = range.begin; i < range.end; ++i) {
                 const Index n = i * width;
                 if (columns - n >= width)
                   all_rows<width>(a, n);
                 else
                   for (Index single = n; single < columns; ++single) all_rows<1>(a, single);
               }
             });
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr int width = 4;  // rows of the weight side by side: streams for the prefetcher

  template <int Columns>
  static void all_rows(const ssm::Matmul<T, HostSpace>& a, Index n) {
    const Index rows = a.a.extent(0);
    Index m = 0;
    for (; m + 4 <= rows; m += 4) dot_products<4, Columns>(a, m, n);
    if (m + 2 <= rows) {
      dot_products<2, Columns>(a, m, n);
      m += 2;
    }
    if (m < rows) dot_products<1, Columns>(a, m, n);
  }

  template <int Rows, int Columns>
  static void dot_products(const ssm::Matmul<T, HostSpace>& a, Index m, Index n) {
    constexpr Index lanes = lane_count<T, Arch>;
    const Index depth = a.a.extent(1);
    const T* left = a.a.data() + m * a.a.stride(0);
    const T* right = a.b.data() + n * a.b.stride(1);
    Register sums[Rows * Columns];
    for (Register& sum : sums) sum = Register(T{0});
    const auto add_products = [&](Index k, auto&& take) {
      Register x[Rows];
      unrolled<Rows>([&](auto r) { x[r] = take(left + r * a.a.stride(0) + k); });
      unrolled<Columns>([&](auto c) {
        const Register w = take(right + c * a.b.stride(1) + k);
        unrolled<Rows>(
            [&](auto r) { sums[r * Columns + c] = xsimd::fma(x[r], w, sums[r * Columns + c]); });
      });
    };
    Index k = 0;
    for (; k + lanes <= depth; k += lanes)
      add_products(k, [](const T* from) { return load<T, Arch>(from); });
    if (k < depth)
      add_products(k, [&](const T* from) { return gather<T, Arch>(from, 1, depth - k); });
    T products[Rows * Columns];
    unrolled<Rows * Columns>([&](auto i) { products[i] = sum_of_lanes(sums[i]); });
    for (int r = 0; r < Rows; ++r)
      MatmulEpilogue<T, Arch>(a).finish(m + r, n, Columns, products + r * Columns);
  }
};

}  // namespace ssm::cpu
