// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/quick_functions.cuh"
#include "kernel/tensor_core.cuh"
#include "matmul/tile_product.cuh"

namespace ssm::cuda::device {

// What becomes of the sums of a tile_product_kernel.

inline constexpr int warp_rows = 16;  // of 64, in panels that are written

/// Where a lane's sums of a tile are: sums[h][n][2·r + i] in row row() + 64·h + 8·r and column
/// 8·n + pair() + i. What a quad moves of 32 columns together is at eights() in them.
struct PlaceOfSums {
  int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32 % 4);

  __device__ int row() const { return 16 * warp + lane / 4; }
  __device__ int pair() const { return lane % 4 * 2; }
  __device__ int eights() const { return lane % 4 * 8; }
};
/// Sums of a lane.
template <class Product>
using Sums = float[Product::Halves][Product::Columns / 8][4];
/// Of a row of sums what a lane has, in T: pairs[g][i] of block 4·g + i.
template <class Product>
using RowPairs = unsigned[Product::Columns / 32][4];

/// Of a quad of lanes each has four numbers; afterwards lane i's j-th is what lane j's i-th was. Of
/// several such fours at a time, whose exchanges do not wait for each other.
template <int Many>
__device__ void turn_quads(unsigned (&v)[Many][4]) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool high = (threadIdx.x & bit) != 0;
    const auto low = [&](int i) { return bit == 1 ? 2 * i : i; };
    unsigned taken[Many][2];
#pragma unroll
    for (int m = 0; m < Many; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        taken[m][i] = __shfl_xor_sync(0xffffffffu, high ? v[m][low(i)] : v[m][low(i) + bit], bit);
#pragma unroll
    for (int m = 0; m < Many; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        unsigned &first = v[m][low(i)], &second = v[m][low(i) + bit];
        first = high ? taken[m][i] : first;
        second = high ? second : taken[m][i];
      }
  }
}

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// Halves of tiles, 64 × 128 numbers in two panels, on their way through shared memory: a warp
/// writes its own 16 rows of them, and has the copy engine take those.
template <class Product>
struct WarpRows {
  static constexpr int half = 2 * Product::panel;  // bytes

  unsigned first;  // its own part of the first panel

  __device__ WarpRows(const unsigned char* own, const PlaceOfSums& place)
      : first(shared_address(own) + static_cast<unsigned>(place.warp * warp_rows * 128)) {}
  /// The lane's address in four tiles of 8 × 8 numbers: of half h, row 8·r and column 32·g on.
  __device__ unsigned tiles(int h, int r, int g) const {
    const int lane = static_cast<int>(threadIdx.x % 32), row = lane % 8;
    const int run = (g % 2 * 4 + lane / 8) ^ row;
    return first + static_cast<unsigned>(h * half + g / 2 * Product::panel + (8 * r + row) * 128 +
                                         run * 16);
  }
  __device__ void load(RowPairs<Product>& pairs, int h, int r) const {
#pragma unroll
    for (int g = 0; g < Product::Columns / 32; ++g) load_rows_of_tiles(pairs[g], tiles(h, r, g));
  }
  __device__ void store(const RowPairs<Product>& pairs, int h, int r) const {
#pragma unroll
    for (int g = 0; g < Product::Columns / 32; ++g)
      store_tiles<false>(tiles(h, r, g), pairs[g][0], pairs[g][1], pairs[g][2], pairs[g][3]);
  }
  /// By one thread, when all lanes have shown what they stored; commit_panels comes behind it.
  __device__ void write(const MatrixMap& to, int h, int row, int column) const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      write_panel(to, first + static_cast<unsigned>(h * half + i * Product::panel), column + 64 * i,
                  row);
  }
};

#endif

/// What a bias adds to a lane's sums of 32 columns from `column` on.
__device__ inline void read_bias(const float* bias, int column, float2 (&added)[4]) {
  const PlaceOfSums place;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    added[i] = bias == nullptr
                   ? float2{}
                   : *reinterpret_cast<const float2*>(bias + column + 8 * i + place.pair());
}

/// z = sums + bias, y = gelu_tanh(z), half a tile at a time.
template <class T, class Product>
struct GeluOfSums {
  static constexpr bool reads_ahead = false;
  static constexpr int bytes = 4 * Product::panel;
  struct Shared {
    char nothing;
  };

  const float* bias;  // or null
  MatrixMap z, y;     // of warp_rows × 64

#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  __device__ void end(Sums<Product>& sums, unsigned char* own, Shared&, int first, int column,
                      int) const {
    constexpr int groups = Product::Columns / 32;
    const PlaceOfSums place;
    const WarpRows<Product> rows(own, place);
    float2 added[groups][4];
#pragma unroll
    for (int g = 0; g < groups; ++g) read_bias(bias, column + 32 * g, added[g]);
#pragma unroll
    for (int h = 0; h < Product::Halves; ++h) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        RowPairs<Product> before, values;
#pragma unroll
        for (int g = 0; g < groups; ++g)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float(&sum)[4] = sums[h][4 * g + i];
            before[g][i] = pack<T>(sum[2 * r] + added[g][i].x, sum[2 * r + 1] + added[g][i].y);
            const float2 x = unpack<T>(before[g][i]);  // as it is when z is read once more
            values[g][i] = pack<T>(activate_number<T>(ActivationKind::gelu_tanh, x.x),
                                   activate_number<T>(ActivationKind::gelu_tanh, x.y));
          }
        if (r == 0) {  // the half before has been taken
          if (place.lane == 0) wait_for_panel_reads();
          __syncwarp();
        }
        rows.store(before, 0, r);
        rows.store(values, 1, r);
      }
      show_copies_to_products();
      __syncwarp();
      if (place.lane == 0) {
        const int row = first + 64 * h + warp_rows * place.warp;
        rows.write(z, 0, row, column);
        rows.write(y, 1, row, column);
        commit_panels();
      }
    }
  }
  __device__ void finish() const { wait_for_panel_reads(); }
#endif
};

/// c = sums·gelu_tanh'(x), y = gelu_tanh(x), and the sums of c over the rows of a tile. The copy
/// engine brings x, in whose place y is left for it.
template <class T, class Product>
struct SlopeOfSums {
  static constexpr bool reads_ahead = true;
  static constexpr int bytes = 2 * Product::Halves * Product::panel;
  struct Shared {
    float sums[Product::Groups][2][Product::Columns];
  };

  MatrixMap x, y;  // of 64 × 64 and of warp_rows × 64
  T* c;
  float* partial;  // [tiles of rows, width]
  Index c_step, width;
  int rows;

#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  __device__ void copy(unsigned char* own, int row, int column, SharedBarrier& full) const {
    expect(full, bytes);
#pragma unroll
    for (int i = 0; i < 2 * Product::Halves; ++i)
      copy_panel<1>(own + i * Product::panel, x, column + i % 2 * 64, row + i / 2 * 64, full);
  }
  __device__ void release(SharedBarrier& vacant) const {
    if (threadIdx.x % 32 != 0) return;
    wait_for_panel_reads();
    arrive(vacant);
  }
  __device__ void finish() const { wait_for_panel_reads(); }

  __device__ void end(Sums<Product>& sums, unsigned char* own, Shared& shared, int first,
                      int column, int group) const {
    constexpr int groups = Product::Columns / 32;
    const PlaceOfSums place;
    const WarpRows<Product> own_rows(own, place);
#pragma unroll
    for (int h = 0; h < Product::Halves; ++h) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = first + place.row() + 64 * h + 8 * r;
        RowPairs<Product> slopes, values;
        own_rows.load(values, h, r);
#pragma unroll
        for (int g = 0; g < groups; ++g)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float(&sum)[4] = sums[h][4 * g + i];
            const float2 pair = unpack<T>(values[g][i]);
            const auto low = quick_gelu(pair.x), high = quick_gelu(pair.y);
            sum[2 * r] *= low.slope;
            sum[2 * r + 1] *= high.slope;
            slopes[g][i] = pack<T>(sum[2 * r], sum[2 * r + 1]);
            values[g][i] = pack<T>(low.value, high.value);
          }
        own_rows.store(values, h, r);
        turn_quads(slopes);
        if (row < rows) {
          uint4* const to = reinterpret_cast<uint4*>(c + row * c_step + column + place.eights());
#pragma unroll
          for (int g = 0; g < groups; ++g)
            to[4 * g] = {slopes[g][0], slopes[g][1], slopes[g][2], slopes[g][3]};
        }
      }
      show_copies_to_products();
      __syncwarp();
      if (place.lane == 0) {
        own_rows.write(y, h, first + 64 * h + warp_rows * place.warp, column);
        commit_panels();
      }
    }
    float totals[Product::Columns / 4];  // of the lane's columns
#pragma unroll
    for (int n = 0; n < Product::Columns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        totals[2 * n + i] = sums[0][n][i] + sums[0][n][2 + i];
#pragma unroll
        for (int h = 1; h < Product::Halves; ++h)
          totals[2 * n + i] += sums[h][n][i] + sums[h][n][2 + i];
      }
    sum_columns(totals, shared.sums[group], first, column, group, place);
  }

 private:
  /// Adds the lanes' totals to those of the tile. Of eight rows of lanes each gives half of its
  /// columns away, three times; then the sums of warps w and w + 2 are added, and those of both.
  __device__ void sum_columns(float (&totals)[Product::Columns / 4],
                              float (&of_warps)[2][Product::Columns], int first, int column,
                              int group, const PlaceOfSums& place) const {
    int kept = 0;
#pragma unroll
    for (int round = 0; round < 3; ++round) {
      const int many = Product::Columns / 8 >> round;
      const bool high = (place.lane & 16 >> round) != 0;
#pragma unroll
      for (int i = 0; i < Product::Columns / 8; ++i)
        if (i < many) {
          const float given = high ? totals[i] : totals[i + many];
          const float own = high ? totals[i + many] : totals[i];
          totals[i] = own + __shfl_xor_sync(0xffffffffu, given, 16 >> round);
        }
      if (high) kept += many;
    }
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      if (place.warp / 2 == 1 - turn)
#pragma unroll
        for (int i = 0; i < Product::Columns / 32; ++i) {
          float& sum = of_warps[place.warp % 2][(kept + i) / 2 * 8 + place.pair() + i % 2];
          sum = turn == 0 ? totals[i] : sum + totals[i];
        }
      meet(4 + group, 128);
    }
    const int own = static_cast<int>(threadIdx.x % 128);
    if (first < rows)
      partial[first / Product::Rows * width + column + own] = of_warps[0][own] + of_warps[1][own];
    meet(4 + group, 128);
  }
#endif
};

}  // namespace ssm::cuda::device
