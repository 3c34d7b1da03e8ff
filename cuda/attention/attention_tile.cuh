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

/// Tiles that warps multiply by themselves: rows in shared memory lie 16 bytes more than a multiple
/// of 32 apart, so that eight of them are in different banks.
template <int Width_>
struct WarpTiles {
  static constexpr int Width = Width_;
  static constexpr bool by_warpgroups = false;
  /// Numbers of a tile.
  static constexpr int size(int rows) { return rows * (Width + 8); }
  /// The address of a row's eight columns from `column` on, which eight divides.
  template <int Rows, class T>
  __device__ static T* at(T* tile, int row, int column) {
    return tile + row * (Width + 8) + column;
  }
};

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
template <class Tiles, int Rows, int Threads, class T>
class TileLoader {
 public:
  /// The first tile begins at `matrix`.
  __device__ TileLoader(const T* matrix, Index row_stride, int width)
      : from_(matrix + own_row() * row_stride + own_column()),
        stride_(row_stride),
        is_read_(own_column() < width) {}

  /// Begins to copy the next tile, of which `count` rows are there; the others are zero.
  __device__ void load(T* tile, int count) {
    if (own_column() < Tiles::Width) {
      const int limit = is_read_ ? count - own_row() : 0;
      const T* from = from_;
#pragma unroll
      for (int row = 0; row < Rows; row += step) {
        copy_async_or_zero(Tiles::template at<Rows>(tile, own_row() + row, own_column()), from,
                           row < limit);
        from += step * stride_;
      }
    }
    from_ += Rows * stride_;
  }

 private:
  /// Pieces of 16 bytes in a row, up to a power of two.
  static constexpr int columns = Tiles::Width <= 32    ? 4
                                 : Tiles::Width <= 64  ? 8
                                 : Tiles::Width <= 128 ? 16
                                                       : 32;
  static constexpr int step = Threads / columns;
  static_assert(Threads % columns == 0 && Rows % step == 0);
  __device__ static int own_row() { return static_cast<int>(threadIdx.x) / columns; }
  __device__ static int own_column() { return static_cast<int>(threadIdx.x) % columns * 8; }

  const T* from_;
  Index stride_;
  bool is_read_;
};

/// Writes a warp's 16 rows of sums, times a factor, to the rows of a matrix that are there, by way
/// of its rows from `own` on of a tile, which no other warp uses any more.
template <class Tiles, int Rows, class T>
__device__ void store_sums(T* tile, int own, const float (&sums)[Tiles::Width / 8][4],
                           float low_factor, float high_factor, T* matrix, Index row_stride,
                           int count, int width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto pair = [&](int row, int column) -> unsigned& {
    return reinterpret_cast<unsigned*>(Tiles::template at<Rows>(tile, own + row, column))[lane % 4];
  };
  __syncwarp();
#pragma unroll
  for (int n = 0; n < Tiles::Width / 8; ++n) {
    pair(lane / 4, 8 * n) = pack<T>(sums[n][0] * low_factor, sums[n][1] * low_factor);
    pair(lane / 4 + 8, 8 * n) = pack<T>(sums[n][2] * high_factor, sums[n][3] * high_factor);
  }
  __syncwarp();
  constexpr int chunks = Tiles::Width / 8;
#pragma unroll
  for (int i = 0; i < 16 * chunks / 32; ++i) {
    const int row = (i * 32 + lane) / chunks;
    const int column = (i * 32 + lane) % chunks * 8;
    if (row < count && column < width)
      *reinterpret_cast<uint4*>(matrix + row * row_stride + column) =
          *reinterpret_cast<const uint4*>(Tiles::template at<Rows>(tile, own + row, column));
  }
}

/// The same straight from registers: the four lanes that share a row exchange what they have, so
/// that each writes eight channels at once.
template <class T, int N>
__device__ void store_rows(const float (&sums)[N][4], float low_factor, float high_factor,
                           T* matrix, Index row_stride, int count, int width) {
  static_assert(N % 4 == 0);
  const int lane = static_cast<int>(threadIdx.x % 32), place = lane % 4;
  const auto exchange = [](unsigned& low, unsigned& high, bool is_second, int mask) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, is_second ? low : high, mask);
    (is_second ? low : high) = other;
  };
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = lane / 4 + 8 * i;
    const float factor = i == 0 ? low_factor : high_factor;
#pragma unroll
    for (int n = 0; n < N; n += 4) {
      unsigned words[4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        words[k] = pack<T>(sums[n + k][2 * i] * factor, sums[n + k][2 * i + 1] * factor);
      exchange(words[0], words[1], place % 2 != 0, 1);
      exchange(words[2], words[3], place % 2 != 0, 1);
      exchange(words[0], words[2], place / 2 != 0, 2);
      exchange(words[1], words[3], place / 2 != 0, 2);
      const int column = 8 * (n + place);
      if (row < count && column < width)
        *reinterpret_cast<uint4*>(matrix + row * row_stride + column) =
            uint4{words[0], words[1], words[2], words[3]};
    }
  }
}

/// Begins
///   sums[m] = 16 rows of `left`, from own + 16·m on, times the transpose of `right`
///   [16·M, Width] · [8·N, Width]ᵀ
/// Products of warpgroups have an end at Tiles::wait, those of warps at once.
template <class Tiles, int LeftRows, int M, int N, class T>
__device__ void begin_transposed(float (&sums)[M][N][4], T* left, int own, T* right) {
  if constexpr (Tiles::by_warpgroups) {
    static_assert(M == 1);
    if (Tiles::template begin_transposed<LeftRows>(sums[0], left, own, right)) return;
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
#pragma unroll
  for (int step = 0; step < Tiles::Width / 16; ++step) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
      load_tiles(a[m], Tiles::template at<LeftRows>(left, own + 16 * m + lane % 16,
                                                    16 * step + lane / 16 * 8));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];  // two right operands [16, 8]
      load_tiles(b, Tiles::template at<8 * N>(right, 8 * n + lane % 8 + lane / 16 * 8,
                                              16 * step + lane / 8 % 2 * 8));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(sums[m][n], a[m], b[0], b[1]);
        multiply<T>(sums[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Left operands of the next product: sums, rounded to T.
template <class T, int M, int N>
__device__ void pack_sums(unsigned (&a)[M][N / 2][4], const float (&sums)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int step = 0; step < N / 2; ++step) {
      const float(&even)[4] = sums[m][2 * step];
      const float(&odd)[4] = sums[m][2 * step + 1];
      a[m][step][0] = pack<T>(even[0], even[1]), a[m][step][1] = pack<T>(even[2], even[3]);
      a[m][step][2] = pack<T>(odd[0], odd[1]), a[m][step][3] = pack<T>(odd[2], odd[3]);
    }
}

/// Begins, as begin_transposed,
///   sums[m] += a[m] · right    [16·M, 16·Steps] · [16·Steps, Width]
template <class Tiles, int M, int Steps, class T>
__device__ void begin_add(float (&sums)[M][Tiles::Width / 8][4], const unsigned (&a)[M][Steps][4],
                          T* right) {
  if constexpr (Tiles::by_warpgroups) {
    static_assert(M == 1);
    if (Tiles::begin_add(sums[0], a[0], right)) return;
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int step = 0; step < Steps; ++step)
#pragma unroll
    for (int n = 0; n < Tiles::Width / 8; n += 2) {
      unsigned b[4];
      load_transposed(
          b, Tiles::template at<16 * Steps>(right, 16 * step + lane % 16, 8 * n + lane / 16 * 8));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<T>(sums[m][n], a[m][step], b[0], b[1]);
        multiply<T>(sums[m][n + 1], a[m][step], b[2], b[3]);
      }
    }
}

/// Waits until all but the last `Count` products that were begun have their sums.
template <class Tiles, int Count, int M, int N>
__device__ void finish(float (&sums)[M][N][4]) {
  if constexpr (Tiles::by_warpgroups) Tiles::template wait<Count>(sums[0]);
}

/// begin_transposed, and its end.
template <class Tiles, int LeftRows, int M, int N, class T>
__device__ void multiply_transposed(float (&sums)[M][N][4], T* left, int own, T* right) {
  begin_transposed<Tiles, LeftRows>(sums, left, own, right);
  finish<Tiles, 0>(sums);
}
/// sums[m] += factors[m], rounded to T, times `right`: [16·M, 8·N] · [8·N, Width]
template <class Tiles, int M, int N, class T>
__device__ void multiply_add(float (&sums)[M][Tiles::Width / 8][4], const float (&factors)[M][N][4],
                             T* right) {
  unsigned a[M][N / 2][4];
  pack_sums<T>(a, factors);
  begin_add<Tiles>(sums, a, right);
  finish<Tiles, 0>(sums);
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

/// Waits until what this thread's and the others' loaders have begun to copy is there.
template <class Tiles>
__device__ void wait_for_tiles() {
  wait_for_copies();
  if constexpr (Tiles::by_warpgroups) Tiles::show_copies();
  __syncthreads();
}

/// Which rows of which sequence and head a block owns.
struct AttentionRows {
  Sequence sequence;
  Index head;
  Index first;  // counted in the sequence
  int count;    // not positive: the block has nothing to do
};

/// Numbers the tiles of so many rows of all sequences and heads, those of a sequence that have the
/// most to do first: the last queries, or the first keys. Some heads, whose keys the cache holds,
/// take turns, so that no long walk is the last to begin.
struct AttentionTiles {
  static constexpr unsigned section_heads = 4;
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
  SSM_HOST_DEVICE Index count(Index rows) const {
    return tiles(rows) * heads * (offsets != nullptr ? 1 : sequences);
  }
  /// Tiles of heads that take turns.
  SSM_HOST_DEVICE Index section(Index rows) const { return tiles(rows) * section_heads; }
  /// The number of a sequence's first tile, where they are counted in the order of rows.
  SSM_HOST_DEVICE Index first_tile(const Sequence& sequence, Index head, Index rows) const {
    if (offsets != nullptr) return head * tiles(rows) + sequence.begin / rows + sequence.row;
    return (sequence.row * heads + head) * tiles(rows);
  }
  /// `together`: heads of sequences whose tiles take turns.
  SSM_HOST_DEVICE AttentionRows at(Index number, Index rows, const Packing& packing,
                                   unsigned together = section_heads) const {
    const auto each = static_cast<unsigned>(tiles(rows)), head_count = static_cast<unsigned>(heads);
    const unsigned groups =
        head_count * (offsets != nullptr ? 1u : static_cast<unsigned>(sequences));
    const unsigned section = static_cast<unsigned>(number) / (each * together);
    const unsigned place = static_cast<unsigned>(number) % (each * together);
    const unsigned first_group = section * together, left = groups - first_group;
    const unsigned side_by_side = left < together ? left : together;
    const unsigned group = first_group + place % side_by_side;
    const Index head = group % head_count;
    Index tile = place / side_by_side;
    Index row = group / head_count;
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
    if (tile > last) return {packing.sequence(row), head, 0, 0};
    const Index first = (last_first ? last - tile : tile) * rows;
    return {packing.sequence(row), head, first,
            static_cast<int>(own - first < rows ? own - first : rows)};
  }

  const Index* offsets;
  Index sequences;
  Index length;
  Index heads;
  bool last_first;
};

}  // namespace ssm::cuda::device
