// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ssm/backend/cpu/matmul_epilogue.hpp"
#include "ssm/backend/cpu/parallel.hpp"

namespace ssm::cpu {

/// Matmul where a has few rows and the columns of b are contiguous, as in y = x·Wᵀ for a handful of
/// tokens: the weights are read once, unpacked. A thread reads its columns in some streams that lie
/// apart, each in the order of memory: several streams keep more of the memory's requests under way
/// than one. A tile of sums is as wide as there are streams. While four rows are multiplied, the
/// columns that follow are on their way into the second cache, so that multiplying and reading
/// memory go on at once.
template <class T, class Arch>
class MatmulFewRows {
 public:
  static constexpr Index max_rows = 16;

  static bool applies(const ssm::Matmul<T, HostSpace>& a) {
    const Index depth_stride = a.b        ? a.b.stride(0)
                               : a.b_bf16 ? a.b_bf16.stride(0)
                               : a.b_f16  ? a.b_f16.stride(0)
                                          : a.b_int8.stride(0);
    return a.a.extent(0) <= max_rows && depth_stride == 1 && a.a.stride(1) == 1;
  }

  static void run(const Threads& threads, const ssm::Matmul<T, HostSpace>& a) {
    if (a.b)
      run(threads, a, a.b);
    else if (a.b_bf16)
      run(threads, a, a.b_bf16);
    else if (a.b_f16)
      run(threads, a, a.b_f16);
    else
      run(threads, a, a.b_int8);
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index group = 16;          // columns of a stream that the epilogue takes at once
  static constexpr Index least_work = 65536;  // multiplications for which a thread is worth waking
  // As many as leave registers for the sums of four rows: of 16 with AVX2, of 32 with AVX-512.
  static constexpr int streams = sizeof(Register) == 64 ? 4 : 3;

  /// Columns of all streams, those that follow, and how many tiles of rows share in reading those
  /// ahead: 2^sharing.
  struct Columns {
    const std::byte* data[streams];
    const std::byte* next[streams];
    int sharing;
  };
  /// products[(c·max_rows + m + r)·group] = Σ_k a[m+r,k]·columns[c][k]   for some rows r, columns c
  using Products = void (*)(const View<const T, 2>& a, Index m, const Columns& columns,
                            T* products);
  /// b in any form; what is done with it is compiled once for all forms.
  struct Weights {
    const std::byte* data;
    Index column_bytes;
    Products four_rows, one_row;  // of all streams
    const std::byte* column(Index n) const { return data + n * column_bytes; }
  };

  template <class Stored>
  static void run(const Threads& threads, const ssm::Matmul<T, HostSpace>& a,
                  const View<const Stored, 2>& b) {
    run(threads, a,
        Weights{.data = reinterpret_cast<const std::byte*>(b.data()),
                .column_bytes = b.stride(1) * static_cast<Index>(sizeof(Stored)),
                .four_rows = dot_products<4, Stored>,
                .one_row = dot_products<1, Stored>});
  }

  static void run(const Threads& threads, const ssm::Matmul<T, HostSpace>& a, const Weights& b) {
    const Index work = a.c.extent(0) * a.a.extent(1);
    const Index grain = std::max<Index>(group, least_work / std::max<Index>(1, work));
    parallel(threads, a.c.extent(1), grain, [&](Range range, int) {
      const Index section = (range.end - range.begin + streams - 1) / streams;
      for (Index i = 0; i < section; i += group) {
        Pieces pieces;
        pieces.last = range.end - 1;
        for (Index s = 0; s < streams; ++s) {
          const Index begin = range.begin + s * section + i;
          const Index end = std::min(range.begin + (s + 1) * section, range.end);
          pieces.begin[s] = begin;
          pieces.count[s] = std::clamp<Index>(end - begin, 0, group);
        }
        multiply(a, b, pieces);
      }
    });
  }

  /// At most `group` columns of each stream, and the last of all.
  struct Pieces {
    Index last;
    Index begin[streams], count[streams];
  };

  static void multiply(const ssm::Matmul<T, HostSpace>& a, const Weights& b, const Pieces& pieces) {
    T products[streams * max_rows * group];
    const Index count = *std::max_element(pieces.count, pieces.count + streams);
    Columns columns;
    columns.sharing =
        static_cast<int>(std::bit_width(static_cast<std::size_t>(a.a.extent(0) - 1) / 4));
    for (Index i = 0; i < count; ++i) {
      // A stream that has ended, as some do at the last columns, takes another's once more.
      for (Index s = 0; s < streams; ++s) {
        columns.data[s] = b.column(std::min(pieces.begin[s] + i, pieces.last));
        columns.next[s] = b.column(std::min(pieces.begin[s] + i + 1, pieces.last));
      }
      Index m = 0;
      for (; m + 4 <= a.a.extent(0); m += 4) b.four_rows(a.a, m, columns, products + i);
      for (; m < a.a.extent(0); ++m) b.one_row(a.a, m, columns, products + i);
    }
    const MatmulEpilogue<T, Arch> epilogue(a);
    for (Index s = 0; s < streams; ++s)
      for (Index m = 0; m < a.c.extent(0); ++m) {
        T* const row = products + (s * max_rows + m) * group;
        for (Index i = 0; a.b_int8 && i < pieces.count[s]; ++i)
          row[i] *= static_cast<T>(a.b_scale(pieces.begin[s] + i));
        epilogue.finish(m, pieces.begin[s], pieces.count[s], row);
      }
  }

  template <int Rows, class Stored>
  [[gnu::always_inline]] static Register load_weight(const Stored* from) {
    Register weight = load<T, Arch>(from);
    if constexpr (Rows > 1) keep_in_register<T, Arch>(weight);
    return weight;
  }

  template <int Rows, class Stored>
  static void dot_products(const View<const T, 2>& a, Index m, const Columns& columns,
                           T* products) {
    constexpr int chains = Rows == 1 ? 2 : 1;  // independent sums hide the latency of the additions
    constexpr int tile = Rows * streams;
    constexpr Index bytes = sizeof(Stored), line = 64 / bytes;
    const Index depth = a.extent(1);
    const T* left = a.data() + m * a.stride(0);
    const Stored* stored[streams];
    expanded<streams>(
        [&](auto... c) { ((stored[c] = reinterpret_cast<const Stored*>(columns.data[c])), ...); });
    Register sums[tile * chains];
    expanded<tile * chains>([&](auto... i) { ((sums[i] = Register(T{0})), ...); });
    const auto add_products = [&](auto chain, Index k) __attribute__((always_inline)) {
      Register weights[streams];
      expanded<streams>([&](auto... c) { ((weights[c] = load_weight<Rows>(stored[c] + k)), ...); });
      unrolled<Rows>([&](auto r) {
        Register x = load<T, Arch>(left + r * a.stride(0) + k);
        keep_in_register<T, Arch>(x);
        constexpr int first = r() * streams * chains + chain();
        expanded<streams>([&](auto... c) {
          ((sums[first + c * chains] = xsimd::fma(x, weights[c], sums[first + c * chains])), ...);
        });
      });
    };
    const Index ahead = m / 4 * depth * bytes >> columns.sharing;
    Index k = 0;
    for (; k + chains * lanes <= depth; k += chains * lanes) {
      if (Rows > 1 && k % line == 0)
        expanded<streams>([&](auto... c) {
          (__builtin_prefetch(columns.next[c] + ahead + (k * bytes >> columns.sharing), 0, 2), ...);
        });
      unrolled<chains>([&](auto chain) { add_products(chain, k + chain * lanes); });
    }
    if constexpr (chains == 2)  // depths of a few registers, such as the rank of Mamba's steps
      if (k + lanes <= depth) {
        add_products(std::integral_constant<int, 0>{}, k);
        k += lanes;
      }
    if constexpr (chains == 2)
      expanded<tile>([&](auto... i) { ((sums[i] = sums[2 * i] + sums[2 * i + 1]), ...); });
    expanded<tile>([&](auto... i) {
      ((products[(i % streams * max_rows + m + i / streams) * group] = sum_of_lanes(sums[i])), ...);
    });
    for (; k < depth; ++k)
      for (int row = 0; row < Rows; ++row)
        for (int c = 0; c < streams; ++c)
          products[(c * max_rows + m + row) * group] +=
              left[row * a.stride(0) + k] * scalar_cast<T>(stored[c][k]);
  }
};

}  // namespace ssm::cpu
