// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/quick_functions.cuh"
#include "kernel/tensor_core.cuh"
#include "matmul/tile_product.cuh"

namespace ssm::cuda::device {

// What becomes of the sums of a tile_product_kernel.

/// Eight neighbors.
template <class T>
__device__ void write_words(T* to, const unsigned (&pairs)[4]) {
  *reinterpret_cast<uint4*>(to) = {pairs[0], pairs[1], pairs[2], pairs[3]};
}

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

/// Of a quad of lanes each has four numbers; afterwards lane i's j-th is what lane j's i-th was.
__device__ inline void turn_quad(unsigned (&v)[4]) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool high = (threadIdx.x & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if ((i & bit) == 0) {
        const unsigned taken = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + bit], bit);
        v[i] = high ? taken : v[i];
        v[i + bit] = high ? v[i + bit] : taken;
      }
  }
}

/// Rows of numbers of 16 bits that an epilogue reads: of the first 64 rows of a tile while it is
/// multiplied, of the others when those are used.
template <class T, class Product>
struct RowsAhead {
  static constexpr int groups = Product::Columns / 32;
  struct Held {
    uint4 words[2][groups];
  };

  const T* x;
  Index step;
  int rows;

  __device__ uint4 read(int row, int column) const {
    return row < rows ? *reinterpret_cast<const uint4*>(x + row * step + column) : uint4{};
  }
  __device__ void begin(Held& held, int first, int column) const {
    const PlaceOfSums place;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int g = 0; g < groups; ++g)
        held.words[r][g] = read(first + place.row() + 8 * r, column + 32 * g + place.eights());
  }
  /// The pairs that belong to a lane's sums of 32 columns; and reads those of 64 rows below.
  __device__ void take(Held& held, int h, int r, int g, int row, int column,
                       unsigned (&pairs)[4]) const {
    const uint4 words = held.words[r][g];
    if (h + 1 < Product::Halves) held.words[r][g] = read(row + 64, column);
    pairs[0] = words.x, pairs[1] = words.y, pairs[2] = words.z, pairs[3] = words.w;
    turn_quad(pairs);
  }
};

/// What a bias adds to a lane's sums of 32 columns from `column` on.
__device__ inline void read_bias(const float* bias, int column, float2 (&added)[4]) {
  const PlaceOfSums place;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    added[i] = bias == nullptr
                   ? float2{}
                   : *reinterpret_cast<const float2*>(bias + column + 8 * i + place.pair());
}

/// z = sums + bias, y = gelu_tanh(z)
template <class T, class Product>
struct GeluOfSums {
  struct Held {};
  struct Shared {
    char nothing;
  };

  const float* bias;  // or null
  T *z, *y;
  Index z_step, y_step;
  int rows;

  __device__ void begin(Held&, int, int) const {}
  __device__ void end(Sums<Product>& sums, Held&, Shared&, int first, int column, int) const {
    const PlaceOfSums place;
#pragma unroll
    for (int g = 0; g < Product::Columns / 32; ++g) {
      const int own = column + 32 * g + place.eights();
      float2 added[4];
      read_bias(bias, column + 32 * g, added);
#pragma unroll
      for (int h = 0; h < Product::Halves; ++h)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = first + place.row() + 64 * h + 8 * r;
          unsigned before[4], values[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float(&sum)[4] = sums[h][4 * g + i];
            before[i] = pack<T>(sum[2 * r] + added[i].x, sum[2 * r + 1] + added[i].y);
            const float2 x = unpack<T>(before[i]);  // as it is when z is read once more
            values[i] = pack<T>(activate_number<T>(ActivationKind::gelu_tanh, x.x),
                                activate_number<T>(ActivationKind::gelu_tanh, x.y));
          }
          turn_quad(before);
          turn_quad(values);
          if (row < rows) {
            write_words(z + row * z_step + own, before);
            write_words(y + row * y_step + own, values);
          }
        }
    }
  }
};

/// c = sums·gelu_tanh'(x), y = gelu_tanh(x), and the sums of c over the rows of a tile.
template <class T, class Product>
struct SlopeOfSums {
  using Ahead = RowsAhead<T, Product>;
  using Held = typename Ahead::Held;
  struct Shared {
    float sums[Product::Groups][4][Product::Columns];
  };

  Ahead x;
  T *c, *y;
  float* partial;  // [tiles of rows, width]
  Index c_step, y_step, width;
  int rows;

  __device__ void begin(Held& held, int first, int column) const { x.begin(held, first, column); }
  __device__ void end(Sums<Product>& sums, Held& held, Shared& shared, int first, int column,
                      int group) const {
    constexpr int blocks = Product::Columns / 8;
    const PlaceOfSums place;
    float totals[2 * blocks] = {};  // of the lane's columns
#pragma unroll
    for (int h = 0; h < Product::Halves; ++h)
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int g = 0; g < Product::Columns / 32; ++g) {
          const int row = first + place.row() + 64 * h + 8 * r;
          const int own = column + 32 * g + place.eights();
          unsigned slopes[4], values[4];
          x.take(held, h, r, g, row, own, values);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int n = 4 * g + i;
            const float2 pair = unpack<T>(values[i]);
            const auto low = quick_gelu(pair.x), high = quick_gelu(pair.y);
            const float left = sums[h][n][2 * r] * low.slope;
            const float right = sums[h][n][2 * r + 1] * high.slope;
            totals[2 * n] += left;
            totals[2 * n + 1] += right;
            slopes[i] = pack<T>(left, right);
            values[i] = pack<T>(low.value, high.value);
          }
          turn_quad(slopes);
          turn_quad(values);
          if (row < rows) {
            write_words(c + row * c_step + own, slopes);
            write_words(y + row * y_step + own, values);
          }
        }
    sum_columns(totals, shared, first, column, group, place);
  }

 private:
  /// Adds the lanes' totals to those of the tile. Of eight rows of lanes each gives half of its
  /// columns away, three times; then the sums of warps are added in order.
  __device__ void sum_columns(float (&totals)[Product::Columns / 4], Shared& shared, int first,
                              int column, int group, const PlaceOfSums& place) const {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
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
    for (int i = 0; i < Product::Columns / 32; ++i)
      shared.sums[group][place.warp][(kept + i) / 2 * 8 + place.pair() + i % 2] = totals[i];
    meet(4 + group, 128);
    const int own = static_cast<int>(threadIdx.x % 128);
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) total += shared.sums[group][warp][own];
    if (first < rows) partial[first / Product::Rows * width + column + own] = total;
    meet(4 + group, 128);
#endif
  }
};

}  // namespace ssm::cuda::device
