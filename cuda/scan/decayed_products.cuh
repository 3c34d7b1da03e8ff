// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of 128 × Columns tiles on tensor cores, for the passes over a memory that fades.

#include <type_traits>

#include "scan/decayed_tiles.cuh"

namespace ssm::cuda::device {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / 32;
inline constexpr int kStageDepth = 32;  // terms of a product that a stage holds
inline constexpr int kStages = 3;  // in shared memory: one is multiplied while two are on their way
inline constexpr int kStagePitch = kStageDepth + 8;  // numbers of a padded row of as many
inline constexpr int kHeadsAtOnce = 6;               // of a group, by a block of their weights

// 16-bit pairs ------------------------------------------------------------------------------------

template <class T>
__device__ unsigned pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return pack_bf16(low, high);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const unsigned&>(pair);
  }
}
template <class T>
__device__ unsigned scale_pair(unsigned pair, float low, float high) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return pack_bf16(low_of(pair) * low, high_of(pair) * high);
  } else {
    const float2 wide = __half22float2(reinterpret_cast<const __half2&>(pair));
    return pack_pair<T>(wide.x * low, wide.y * high);
  }
}

template <class T>
__device__ float2 wide_pair(unsigned pair) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return {low_of(pair), high_of(pair)};
  else
    return __half22float2(reinterpret_cast<const __half2&>(pair));
}
template <class T>
__device__ float2 wide_pair(const T* from) {
  return wide_pair<T>(*reinterpret_cast<const unsigned*>(from));
}

/// c += a · b for a 16 × 16 by 16 × 8 tile, float sums.
template <class T>
__device__ void multiply_half_tile(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                   unsigned b1) {
  if constexpr (std::is_same_v<T, BFloat16>)
    multiply_tile(c, a, b0, b1);
  else
    multiply_tile_half(c, a, b0, b1);
}

// Copies to shared memory -------------------------------------------------------------------------

/// A number, or zero in place of what does not exist.
__device__ inline void copy_or_zero(float* to, const float* from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(exists ? 4 : 0)
               : "memory");
}
/// Ends a group of copies.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all groups of this thread but the last `Others`.
template <int Others>
__device__ void wait_for_older_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Others) : "memory");
}

/// Rows × Columns numbers, zeros beyond `rows` and `columns`; columns is a multiple of 8.
template <int Rows, int Columns, class T>
__device__ void copy_tile(T* to, int pitch, const T* from, int stride, int rows, int columns) {
  constexpr int pieces = Columns / 8;
  constexpr int rows_at_once = kTileThreads / pieces;
  const int row = static_cast<int>(threadIdx.x) / pieces;
  const int column = static_cast<int>(threadIdx.x) % pieces * 8;
  const int last = column < columns ? rows : 0;
  to += row * pitch + column;
  from += column;
#pragma unroll
  for (int r = 0; r < Rows; r += rows_at_once)
    copy_async_or_zero(to + r * pitch, from + static_cast<Index>(row + r) * stride, row + r < last);
}
/// One number of every position of a chunk, zeros beyond its end; `from` is of [B, L, H].
template <class T>
__device__ void copy_factors(float* to, const float* from, const TiledMemory<T>& a,
                             const Chunk& chunk, int h, int thread) {
  const bool exists = thread < chunk.end - chunk.begin;
  copy_or_zero(to + thread, exists ? from + a.row(chunk.s.batch, chunk.begin + thread, h) : from,
               exists);
}

/// multiply(step, stage) of all steps, with issue(step, stage) made `Stages` − 1 steps before.
template <int Stages, class Issue, class Multiply>
__device__ void for_each_step(int steps, Issue issue, Multiply multiply) {
#pragma unroll
  for (int step = 0; step < Stages - 1; ++step) {
    if (step < steps) issue(step, step);
    end_group();
  }
  int stage = 0;
  int next = Stages - 1;
  for (int step = 0; step < steps; ++step) {
    wait_for_older_groups<Stages - 2>();
    __syncthreads();
    if (step + Stages - 1 < steps) issue(step + Stages - 1, next);
    end_group();
    multiply(step, stage);
    stage = stage == Stages - 1 ? 0 : stage + 1;
    next = next == Stages - 1 ? 0 : next + 1;
  }
}

// Products ----------------------------------------------------------------------------------------

/// The part of a tile of 128 × Columns sums that a warp has: 16·blocks rows, 8·eights columns.
template <int Columns>
struct WarpTile {
  static constexpr int eights = Columns > kTile ? 8 : 4;
  static constexpr int width = 8 * eights;
  static constexpr int across = Columns / width;  // warps beside each other
  static constexpr int blocks = across;           // of 16 rows
  static_assert(kTileWarps / across * 16 * blocks == kTile);

  __device__ WarpTile()
      : row(static_cast<int>(threadIdx.x) / 32 / across * 16 * blocks),
        column(static_cast<int>(threadIdx.x) / 32 % across * width) {}

  /// f(row, column, the sums of it and of the column behind it)
  template <class F>
  __device__ void each_pair(float (&sums)[blocks][eights][4], F f) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int block = 0; block < blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < eights; ++j)
          f(row + block * 16 + half * 8 + lane / 4, column + j * 8 + lane % 4 * 2,
            sums[block][j][2 * half], sums[block][j][2 * half + 1]);
  }

  int row;
  int column;
};
template <int Columns>
using Sums = float[WarpTile<Columns>::blocks][WarpTile<Columns>::eights][4];

/// The second operand of 16 terms, [term, column] if by_terms, else [column, term].
template <bool by_terms, int Eights, class T>
__device__ void load_right(unsigned (&right)[Eights][2], const T* b, int pitch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int pair = 0; pair < Eights / 2; ++pair) {
    unsigned r[4];
    if constexpr (by_terms)
      load_transposed(r, b + (lane % 8 + lane / 8 % 2 * 8) * pitch + pair * 16 + lane / 16 * 8);
    else
      load_tiles(r, b + (pair * 16 + lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
    right[2 * pair][0] = r[0], right[2 * pair][1] = r[1];
    right[2 * pair + 1][0] = r[2], right[2 * pair + 1][1] = r[3];
  }
}
/// sums += left · right of 16 terms; the left operand is [term, row] if by_terms, else [row, term].
template <bool by_terms, class T, int Blocks, int Eights>
__device__ void add_products(float (&sums)[Blocks][Eights][4], const T* a, int pitch,
                             const unsigned (&right)[Eights][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
    unsigned left[4];
    if constexpr (by_terms)
      load_transposed(left, a + (lane % 8 + lane / 16 * 8) * pitch + block * 16 + lane / 8 % 2 * 8);
    else
      load_tiles(left, a + (block * 16 + lane % 16) * pitch + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < Eights; ++j)
      multiply_half_tile<T>(sums[block][j], left, right[j][0], right[j][1]);
  }
}
/// Of a stage: left [128, 32], right [columns, 32], both padded.
template <class T, int Columns>
__device__ void add_row_products(Sums<Columns>& sums, const WarpTile<Columns>& tile, const T* left,
                                 const T* right) {
#pragma unroll
  for (int k = 0; k < kStageDepth; k += 16) {
    unsigned r[WarpTile<Columns>::eights][2];
    load_right<false>(r, right + tile.column * kStagePitch + k, kStagePitch);
    add_products<false>(sums, left + tile.row * kStagePitch + k, kStagePitch, r);
  }
}
/// Multiplies the terms of a second operand by their weights.
template <class T, int Eights>
__device__ void scale_right(unsigned (&right)[Eights][2], const float* weights) {
  const float2 near = *reinterpret_cast<const float2*>(weights + threadIdx.x % 4 * 2);
  const float2 far = *reinterpret_cast<const float2*>(weights + threadIdx.x % 4 * 2 + 8);
#pragma unroll
  for (int j = 0; j < Eights; ++j) {
    right[j][0] = scale_pair<T>(right[j][0], near.x, near.y);
    right[j][1] = scale_pair<T>(right[j][1], far.x, far.y);
  }
}
/// Of terms `first` … first + 31 of a square [128, 128], or of a turned one, and of right
/// [32, Columns], its terms scaled where `scales` is not null; where the square is zero nothing is
/// done.
template <class T, int Columns>
__device__ void add_square_products(Sums<Columns>& sums, const WarpTile<Columns>& tile,
                                    const T* square, bool turned, int first, const T* right,
                                    const float* scales) {
  constexpr int pitch = kTile + 8;
  constexpr int rows = 16 * WarpTile<Columns>::blocks;
#pragma unroll
  for (int k = 0; k < kStageDepth; k += 16) {
    const int term = first + k;
    if (turned ? term + 15 < tile.row : term > tile.row + rows - 1) continue;
    unsigned r[WarpTile<Columns>::eights][2];
    load_right<true>(r, right + k * (Columns + 8) + tile.column, Columns + 8);
    if (scales != nullptr) scale_right<T>(r, scales + term);
    if (turned)
      add_products<true>(sums, square + term * pitch + tile.row, pitch, r);
    else
      add_products<false>(sums, square + tile.row * pitch + term, pitch, r);
  }
}

template <int Blocks, int Eights>
__device__ void set_zero(float (&sums)[Blocks][Eights][4]) {
#pragma unroll
  for (int block = 0; block < Blocks; ++block)
#pragma unroll
    for (int j = 0; j < Eights; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[block][j][e] = 0;
}

/// Of four neighboring lanes, lane l gets word l of each, in the order of the lanes.
__device__ inline void transpose_words(unsigned (&w)[4]) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool upper = (threadIdx.x & 2) != 0;
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, odd ? w[j] : w[j + 1], 1);
    (odd ? w[j] : w[j + 1]) = other;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, upper ? w[j] : w[j + 2], 2);
    (upper ? w[j] : w[j + 2]) = other;
  }
}
/// put(row, column, eight rounded numbers) for all of a tile.
template <class T, int Columns, class Put>
__device__ void put_rounded(const Sums<Columns>& sums, const WarpTile<Columns>& tile, Put put) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int block = 0; block < WarpTile<Columns>::blocks; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int first = 0; first < WarpTile<Columns>::eights; first += 4) {
        unsigned words[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          words[j] =
              pack_pair<T>(sums[block][first + j][2 * half], sums[block][first + j][2 * half + 1]);
        transpose_words(words);
        put(tile.row + block * 16 + half * 8 + lane / 4, tile.column + first * 8 + lane % 4 * 8,
            uint4{words[0], words[1], words[2], words[3]});
      }
}

// Shared memory -----------------------------------------------------------------------------------

template <class T>
__device__ T* shared_numbers() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

/// Stages of two operands, 128 × 32 and Columns × 32, padded.
template <int Columns>
struct ProductShared {
  static constexpr int left = kTile * kStagePitch;
  static constexpr int right = Columns < kTile ? kStageDepth * (kTile + 8) : Columns * kStagePitch;
  static constexpr int stages = kStages * (left + right);
  static constexpr int square = kTile * (kTile + 8);
  static constexpr std::size_t factors = kHeadsAtOnce * kTile * sizeof(float);

  static constexpr std::size_t bytes(bool has_square) {
    return (stages + (has_square ? square : 0)) * 2 + factors;
  }
};

template <class T, int Columns>
struct ProductStages {
  using Shared = ProductShared<Columns>;

  __device__ ProductStages() : memory(shared_numbers<T>()) {}
  __device__ T* left(int stage) const { return memory + stage * (Shared::left + Shared::right); }
  __device__ T* right(int stage) const { return left(stage) + Shared::left; }
  __device__ T* square() const { return memory + Shared::stages; }
  /// kHeadsAtOnce × 128 floats behind the square, or behind the stages.
  __device__ float* factors(bool has_square) const {
    return reinterpret_cast<float*>(square() + (has_square ? Shared::square : 0));
  }

  T* memory;
};

__device__ inline int steps_of(int terms) { return (terms + kStageDepth - 1) / kStageDepth; }
SSM_HOST_DEVICE constexpr int tiles_of(int n, int size) { return (n + size - 1) / size; }

template <class... Parameters, class... Arguments>
void launch_blocks(void (*kernel)(Parameters...), Index blocks, std::size_t shared, Stream stream,
                   const char* operation, const Arguments&... arguments) {
  if (blocks == 0) return;
  require(blocks <= 0x7fffffff, operation, "the operands are too large");
  launch(kernel, dim3(static_cast<unsigned>(blocks)), kTileThreads, shared, stream, operation,
         arguments...);
}

}  // namespace ssm::cuda::device
