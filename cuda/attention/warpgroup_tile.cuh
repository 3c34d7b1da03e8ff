// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attention_tile.cuh"
#include "kernel/warpgroup_products.cuh"

namespace ssm::cuda::device {

/// Tiles that warpgroups multiply: panels of 64 columns, whose rows of 128 bytes have their
/// 16-byte pieces exchanged by the last three bits of the row. Begin at multiples of 1024 bytes.
/// Where there are no products of warpgroups, warps multiply them.
template <int Width_>
struct WarpgroupTiles {
  static constexpr int Width = Width_;
  static constexpr bool by_warpgroups = true;
  static_assert(Width % 64 == 0);
  static constexpr int size(int rows) { return rows * Width; }
  template <int Rows, class T>
  __device__ static T* at(T* tile, int row, int column) {
    return tile + (column / 64 * Rows + row) * 64 + ((column / 8 ^ row) % 8) * 8;
  }

  /// What was copied becomes visible to products from shared memory.
  __device__ static void show_copies() { show_copies_to_products(); }

  /// As the functions of that name; false where there are no products of warpgroups.
  template <int LeftRows, int N, class T>
  __device__ static bool begin_transposed(float (&sums)[N][4], const T* left, int own,
                                          const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    const unsigned long long a = describe_panels(left + own / 64 * 64 * 64, 16);
    const unsigned long long b = describe_panels(right, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Width / 16; ++step)
      multiply_shared<T, N>(sums, a + place(step, LeftRows), b + place(step, 8 * N), step > 0);
    end_products();
    hold(sums);
    return true;
#else
    return false;
#endif
  }
  template <int Steps, class T>
  __device__ static bool begin_add(float (&sums)[Width / 8][4], const unsigned (&factors)[Steps][4],
                                   const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    constexpr int block = Width % 128 == 0 ? 16 : 8;  // of columns, by eight
    const unsigned long long b = describe_panels(right, 16 * Steps * 128);
    hold(sums);
    begin_products();
#pragma unroll
    for (int column = 0; column < Width / 8; column += block)
#pragma unroll
      for (int step = 0; step < Steps; ++step)
        multiply_shared<T, block>(reinterpret_cast<float(&)[block][4]>(sums[column]), factors[step],
                                  b + (column / 8 * Steps + step) * (16 * 128 >> 4));
    end_products();
    hold(sums);
    return true;
#else
    return false;
#endif
  }
  /// Begins sums = leftᵀ · right, of a panel and of some of its columns.
  ///   [64, 8·N] = [Rows, 64]ᵀ · [Rows, 8·N]
  template <int Rows, int N, class T>
  __device__ static void begin_both_transposed(float (&sums)[N][4], const T* left, const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    const unsigned long long a = describe_panels(left, 16), b = describe_panels(right, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Rows / 16; ++step)
      multiply_both_transposed<T>(sums, a + step * (16 * 128 >> 4), b + step * (16 * 128 >> 4),
                                  step > 0);
    end_products();
    hold(sums);
#endif
  }
  /// Waits until at most the last `Count` products have not finished; `sums` are of one that has.
  template <int Count, int N>
  __device__ static void wait(float (&sums)[N][4]) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    wait_for_products<Count>();
    hold(sums);
#endif
  }

 private:
  /// How far the columns from 16·step on are, in the units of a description.
  __device__ static constexpr unsigned long long place(int step, int rows) {
    return static_cast<unsigned long long>(step / 4 * rows * 128 + step % 4 * 32) >> 4;
  }
};

}  // namespace ssm::cuda::device
