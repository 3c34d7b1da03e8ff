// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attention_sequences.cuh"
#include "kernel/tensor_core.cuh"
#include "kernel/unroll.cuh"

namespace ssm::cuda::device {

// What the attention kernels of 16-bit numbers have in common. A block owns a tile of rows (queries
// or keys) of one head and walks over the tiles of the other kind, which it copies to shared
// memory. A warp owns 16 of the block's rows, or several times 16; a product's sums are the left
// operand of the next product.

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

/// Numbers between the rows of a tile in shared memory: 16 bytes more than a multiple of 32, so
/// that eight rows lie in different banks.
constexpr int tile_stride(int width) { return width + 8; }
/// Numbers of a tile in shared memory.
constexpr int tile_size(int rows, int width) { return rows * tile_stride(width); }

template <class T>
__device__ unsigned pack(float low, float high) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return pack_bf16(low, high);
  else
    return pack_half(low, high);
}
template <class T>
__device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same_v<T, BFloat16>)
    multiply_tile(c, a, b0, b1);
  else
    multiply_tile_half(c, a, b0, b1);
}

/// 2^x to about 22 bits; 0 of −∞.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

/// The sum, or the largest, of the four lanes that share a row of a product.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// Copies tiles of `Rows` rows of a matrix of any length to shared memory, one after the other; a
/// thread copies every so many rows of the same eight channels.
template <int Rows, int Width, int Threads, class T>
class TileLoader {
 public:
  /// The first tile begins at `matrix`.
  __device__ TileLoader(const T* matrix, Index row_stride, int width)
      : from_(matrix + own_row() * row_stride + own_column()),
        stride_(row_stride),
        is_read_(own_column() < width) {}

  /// Begins to copy the next tile, of which `count` rows are there; the others are zero.
  __device__ void load(T* tile, int count) {
    if (own_column() < Width) {
      T* const to = tile + own_row() * tile_stride(Width) + own_column();
      const int limit = is_read_ ? count - own_row() : 0;
      const T* from = from_;
#pragma unroll
      for (int row = 0; row < Rows; row += step) {
        copy_async_or_zero(to + row * tile_stride(Width), from, row < limit);
        from += step * stride_;
      }
    }
    from_ += Rows * stride_;
  }

 private:
  static constexpr int columns = Width <= 32    ? 4
                                 : Width <= 64  ? 8
                                 : Width <= 128 ? 16
                                                : 32;  // of 16 bytes
  static constexpr int step = Threads / columns;
  static_assert(Threads % columns == 0 && Rows % step == 0);
  __device__ static int own_row() { return static_cast<int>(threadIdx.x) / columns; }
  __device__ static int own_column() { return static_cast<int>(threadIdx.x) % columns * 8; }

  const T* from_;
  Index stride_;
  bool is_read_;
};

/// Writes a warp's rows of sums, times `factor`, to the rows of a matrix that are there, by way of
/// `tile`: 16 rows in shared memory that only this warp uses.
template <class T, int Width>
__device__ void store_sums(T* tile, const float (&sums)[Width / 8][4], float low_factor,
                           float high_factor, T* matrix, Index row_stride, Index count, int width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  unsigned* const low =
      reinterpret_cast<unsigned*>(tile + lane / 4 * tile_stride(Width)) + lane % 4;
  unsigned* const high = low + 8 * tile_stride(Width) / 2;
#pragma unroll
  for (int n = 0; n < Width / 8; ++n) {
    low[4 * n] = pack<T>(sums[n][0] * low_factor, sums[n][1] * low_factor);
    high[4 * n] = pack<T>(sums[n][2] * high_factor, sums[n][3] * high_factor);
  }
  __syncwarp();
  constexpr int chunks = Width / 8;
#pragma unroll
  for (int i = 0; i < 16 * chunks / 32; ++i) {
    const int row = (i * 32 + lane) / chunks;
    const int column = (i * 32 + lane) % chunks * 8;
    if (row < count && column < width)
      *reinterpret_cast<uint4*>(matrix + row * row_stride + column) =
          *reinterpret_cast<const uint4*>(tile + row * tile_stride(Width) + column);
  }
}

/// The left operand [16, 16] at a place in a tile.
template <int Width, class T>
__device__ void load_left(unsigned (&a)[4], const T* place) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_tiles(a, place + lane % 16 * tile_stride(Width) + lane / 16 * 8);
}
/// Two right operands [16, 8]: the columns 0 … 7 and 8 … 15 of the transpose of the [16, 16] at a
/// place in a tile; b[0], b[1] and b[2], b[3].
template <int Width, class T>
__device__ void load_right_transposed(unsigned (&b)[4], const T* place) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_tiles(b, place + (lane % 8 + lane / 16 * 8) * tile_stride(Width) + lane / 8 % 2 * 8);
}
/// The same of the [16, 16] itself.
template <int Width, class T>
__device__ void load_right(unsigned (&b)[4], const T* place) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_transposed(b, place + lane % 16 * tile_stride(Width) + lane / 16 * 8);
}

/// sums[m] = rows m of `left` times the transpose of `right`: [16·M, Width] · [8·N, Width]ᵀ
template <int Width, int M, int N, class T>
__device__ void multiply_transposed(float (&sums)[M][N][4], const T* left, const T* right) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
#pragma unroll
  for (int step = 0; step < Width / 16; ++step) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
      load_left<Width>(a[m], left + 16 * m * tile_stride(Width) + 16 * step);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];
      load_right_transposed<Width>(b, right + 8 * n * tile_stride(Width) + 16 * step);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(sums[m][n], a[m], b[0], b[1]);
        multiply<T>(sums[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// sums[m] += factors[m], rounded to T, times `right`: [16·M, 8·N] · [8·N, Width]
template <int Width, int M, int N, class T>
__device__ void multiply_add(float (&sums)[M][Width / 8][4], const float (&factors)[M][N][4],
                             const T* right) {
#pragma unroll
  for (int step = 0; step < N / 2; ++step) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float(&even)[4] = factors[m][2 * step];
      const float(&odd)[4] = factors[m][2 * step + 1];
      a[m][0] = pack<T>(even[0], even[1]), a[m][1] = pack<T>(even[2], even[3]);
      a[m][2] = pack<T>(odd[0], odd[1]), a[m][3] = pack<T>(odd[2], odd[3]);
    }
#pragma unroll
    for (int n = 0; n < Width / 8; n += 2) {
      unsigned b[4];
      load_right<Width>(b, right + 16 * step * tile_stride(Width) + 8 * n);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(sums[m][n], a[m], b[0], b[1]);
        multiply<T>(sums[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <int M, int N>
__device__ void set_zero(float (&sums)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
}

/// Which rows of which sequence and head a block owns.
struct AttentionRows {
  Sequence sequence;
  Index head;
  Index first;  // counted in the sequence
  int count;    // not positive: the block has nothing to do
};

/// Numbers the tiles of so many rows of all sequences and heads, those of a sequence that have the
/// most to do first: the last queries, or the first keys.
struct AttentionTiles {
  /// `length` rows in every sequence, or, where they are packed, in all of them.
  AttentionTiles(const AttentionSequences& of, Index sequence_length, bool is_packed,
                 bool last_rows_first, Index head_count)
      : offsets(is_packed ? of.packing.offsets : nullptr),
        sequences(of.packing.sequences),
        length(sequence_length),
        heads(head_count),
        last_first(last_rows_first) {}

  /// Packed sequence i has its tiles from number c_i / rows + i on, which is room enough.
  SSM_HOST_DEVICE Index tiles(Index rows) const {
    return offsets != nullptr ? length / rows + sequences : (length + rows - 1) / rows;
  }
  Index count(Index rows) const {
    return tiles(rows) * heads * (offsets != nullptr ? 1 : sequences);
  }
  SSM_HOST_DEVICE AttentionRows at(Index number, Index rows, const Packing& packing) const {
    const Index each = tiles(rows);
    const Index group = number / each;
    Index tile = number % each;
    Index row = group / heads;
    Index own = length;
    if (offsets != nullptr) {
      Index high = sequences;
      row = 0;
      while (high - row > 1) {
        const Index middle = row + (high - row) / 2;
        (offsets[middle] / rows + middle <= tile ? row : high) = middle;
      }
      tile -= offsets[row] / rows + row;
      own = offsets[row + 1] - offsets[row];
    }
    const Index last = (own + rows - 1) / rows - 1;
    if (tile > last) return {packing.sequence(row), group % heads, 0, 0};
    const Index first = (last_first ? last - tile : tile) * rows;
    return {packing.sequence(row), group % heads, first,
            static_cast<int>(own - first < rows ? own - first : rows)};
  }

  const Index* offsets;
  Index sequences;
  Index length;
  Index heads;
  bool last_first;
};

}  // namespace ssm::cuda::device
