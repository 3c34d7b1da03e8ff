// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "ssm/backend/cpu/matmul_epilogue.hpp"
#include "ssm/backend/cpu/parallel.hpp"

namespace ssm::cpu {

/// Matmul where a has few rows and the columns of b are contiguous, as in y = x·Wᵀ for a handful of
/// tokens: the weights are read once, unpacked, one after the other in the order of memory, which
/// is what the prefetcher is fastest at.
template <class T, class Arch>
class MatmulFewRows {
 public:
  static constexpr Index max_rows = 16;

  static bool applies(const ssm::Matmul<T, HostSpace>& a) {
    const Index depth_stride = a.b        ? a.b.stride(0)
                               : a.b_bf16 ? a.b_bf16.stride(0)
                                          : a.b_int8.stride(0);
    return a.a.extent(0) <= max_rows && depth_stride == 1 && a.a.stride(1) == 1;
  }

  static void run(const Threads& threads, const ssm::Matmul<T, HostSpace>& a) {
    if (a.b)
      run(threads, a, a.b);
    else if (a.b_bf16)
      run(threads, a, a.b_bf16);
    else
      run(threads, a, a.b_int8);
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index group = 16;          // columns that the epilogue takes at once
  static constexpr Index least_work = 65536;  // multiplications for which a thread is worth waking

  template <class Stored>
  static void run(const Threads& threads, const ssm::Matmul<T, HostSpace>& a,
                  const View<const Stored, 2>& b) {
    const Index rows = a.c.extent(0);
    const Index work = rows * a.a.extent(1);
    const Index grain = std::max<Index>(group, least_work / std::max<Index>(1, work));
    parallel(threads, a.c.extent(1), grain, [&](Range range, int) {
      const MatmulEpilogue<T, Arch> epilogue(a);
      T products[max_rows * group];
      for (Index n = range.begin; n < range.end; n += group) {
        const Index count = std::min(group, range.end - n);
        for (Index i = 0; i < count; ++i)
          all_rows(a.a, b.data() + (n + i) * b.stride(1), products + i);
        for (Index m = 0; m < rows; ++m) {
          if constexpr (std::is_same_v<Stored, std::int8_t>)
            for (Index i = 0; i < count; ++i)
              products[m * group + i] *= static_cast<T>(a.b_scale(n + i));
          epilogue.finish(m, n, count, products + m * group);
        }
      }
    });
  }

  /// products[m·group] = Σ_k a[m,k]·column[k]
  template <class Stored>
  static void all_rows(const View<const T, 2>& a, const Stored* column, T* products) {
    const Index rows = a.extent(0);
    Index m = 0;
    for (; m + 4 <= rows; m += 4) dot_products<4>(a, m, column, products);
    if (m + 2 <= rows) {
      dot_products<2>(a, m, column, products);
      m += 2;
    }
    if (m < rows) dot_products<1>(a, m, column, products);
  }

  template <int Rows, class Stored>
  static void dot_products(const View<const T, 2>& a, Index m, const Stored* column, T* products) {
    constexpr int chains = Rows == 1 ? 4 : 2;  // independent sums hide the latency of the additions
    const Index depth = a.extent(1);
    const T* left = a.data() + m * a.stride(0);
    Register sums[Rows * chains];
    unrolled<Rows * chains>([&](auto i) { sums[i] = Register(T{0}); });
    const auto add_products = [&](auto chain, Index k, Index count) __attribute__((always_inline)) {
      const Register w = gather<T, Arch>(column + k, 1, count);
      unrolled<Rows>([&](auto r) {
        const Register x = gather<T, Arch>(left + r * a.stride(0) + k, 1, count);
        constexpr int at = r() * chains + chain();
        sums[at] = xsimd::fma(x, w, sums[at]);
      });
    };
    Index k = 0;
    for (; k + chains * lanes <= depth; k += chains * lanes)
      unrolled<chains>([&](auto chain) { add_products(chain, k + chain * lanes, lanes); });
    for (; k < depth; k += lanes)
      add_products(std::integral_constant<int, 0>{}, k, std::min(lanes, depth - k));
    unrolled<Rows>([&](auto r) {
      Register sum = sums[r() * chains];
      for (int chain = 1; chain < chains; ++chain) sum += sums[r() * chains + chain];
      products[(m + r) * group] = sum_of_lanes(sum);
    });
  }
};

}  // namespace ssm::cpu
