// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "scan/decayed_tiles.cuh"

namespace ssm::cuda::device {
namespace {

constexpr int kMultiprocessors = 132;  // of a Hopper card
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kDepth = 32;         // terms of a product that a stage holds
constexpr int kStages = 3;         // in shared memory: one is multiplied while two are on their way
constexpr int kDeep = kDepth + 8;  // numbers of a padded row of as many
constexpr int kHeadsAtOnce = 6;    // of a group, by a block of their weights

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
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies to shared memory -------------------------------------------------------------------------

/// 16 bytes, zeros in place of what does not exist.
__device__ void copy_or_zero(void* to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(exists ? 16 : 0)
               : "memory");
}
__device__ void copy_or_zero(float* to, const float* from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(exists ? 4 : 0)
               : "memory");
}
/// Ends a group of copies.
__device__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all groups of this thread but the last `Others`.
template <int Others>
__device__ void wait_for_older_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Others) : "memory");
}

/// Rows × Columns numbers, zeros beyond `rows` and `columns`; columns is a multiple of 8.
template <int Rows, int Columns, class T>
__device__ void copy_tile(T* to, int pitch, const T* from, int stride, int rows, int columns) {
  constexpr int pieces = Columns / 8;
  constexpr int rows_at_once = kThreads / pieces;
  const int row = static_cast<int>(threadIdx.x) / pieces;
  const int column = static_cast<int>(threadIdx.x) % pieces * 8;
  const int last = column < columns ? rows : 0;
  to += row * pitch + column;
  from += column;
#pragma unroll
  for (int r = 0; r < Rows; r += rows_at_once)
    copy_or_zero(static_cast<void*>(to + r * pitch), from + static_cast<Index>(row + r) * stride,
                 row + r < last);
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
  static_assert(kWarps / across * 16 * blocks == kTile);

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
  for (int k = 0; k < kDepth; k += 16) {
    unsigned r[WarpTile<Columns>::eights][2];
    load_right<false>(r, right + tile.column * kDeep + k, kDeep);
    add_products<false>(sums, left + tile.row * kDeep + k, kDeep, r);
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
  for (int k = 0; k < kDepth; k += 16) {
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
__device__ void transpose_words(unsigned (&w)[4]) {
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
  static constexpr int left = kTile * kDeep;
  static constexpr int right = Columns < kTile ? kDepth * (kTile + 8) : Columns * kDeep;
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

__device__ int steps_of(int terms) { return (terms + kDepth - 1) / kDepth; }
SSM_HOST_DEVICE constexpr int tiles_of(int n, int size) { return (n + size - 1) / size; }

// Kernels -----------------------------------------------------------------------------------------

template <int Columns>
struct WalkShared {
  static constexpr int stages = kTile / kDepth;  // a chunk
  static constexpr int left = kDepth * (kTile + 8);
  static constexpr int right = kDepth * (Columns + 8);
  static constexpr int stage = left + right;
  static constexpr int factors = kTile + 4;  // floats: weights of a chunk, and its fade
  static constexpr std::size_t bytes = stages * stage * 2 + 2 * factors * sizeof(float);
};

/// A block walks with 128 × Columns of a head's state along a sequence.
template <class T, int Columns>
__global__ void __launch_bounds__(kThreads, Columns > kTile ? 1 : 2)
    walk_states_kernel(const __grid_constant__ TiledMemory<T> a,
                       const __grid_constant__ StateWalk<T> walk) {
  using Shared = WalkShared<Columns>;
  T* const memory = shared_numbers<T>();
  float* const factors = reinterpret_cast<float*>(memory + Shared::stages * Shared::stage);
  const int thread = static_cast<int>(threadIdx.x);
  const int across = tiles_of(a.values, Columns);
  const int down = tiles_of(a.keys, kTile);
  int i = static_cast<int>(blockIdx.x);
  const int first_value = i % across * Columns;
  i /= across;
  const int first_key = i % down * kTile;
  i /= down;
  const int h = i % a.heads;
  const Sequence s = a.chunking.packing.sequence(i / a.heads);
  const int g = h / (a.heads / a.groups);
  const Index first = a.chunking.first(s);
  const int count = static_cast<int>(a.chunking.count(s));
  const int length = static_cast<int>(a.chunking.length);
  const T* const left_rows = walk.left.at(s.batch, s.begin, g) + first_key;
  const T* const right_rows = walk.right.at(s.batch, s.begin, h) + first_value;
  const int positions = static_cast<int>(s.end - s.begin);
  const auto begin_of = [&](int n) { return (walk.backwards ? count - 1 - n : n) * length; };
  /// Terms at … at + 31 of the n-th chunk.
  const auto issue = [&](int n, int at) {
    if (n < count) {
      const int begin = begin_of(n);
      const int rows = min(positions - begin, length) - at;
      T* const left = memory + at / kDepth * Shared::stage;
      copy_tile<kDepth, kTile>(left, kTile + 8,
                               left_rows + static_cast<Index>(begin + at) * walk.left.position,
                               walk.left.position, rows, a.keys - first_key);
      copy_tile<kDepth, Columns>(left + Shared::left, Columns + 8,
                                 right_rows + static_cast<Index>(begin + at) * walk.right.position,
                                 walk.right.position, rows, a.values - first_value);
      if (at == 0 && thread <= kTile) {
        const bool exists = thread < kTile ? thread < rows : rows > 0;
        const Index t = s.begin + begin + (thread < kTile ? thread : rows - 1);
        const float* const from = thread < kTile ? walk.weight : a.from_begin;
        copy_or_zero(factors + n % 2 * Shared::factors + thread,
                     exists ? from + a.row(s.batch, t, h) : from, exists);
      }
    }
    end_group();
  };
#pragma unroll
  for (int at = 0; at < kTile - kDepth; at += kDepth) issue(0, at);
  const WarpTile<Columns> tile;
  Sums<Columns> sums;
  set_zero(sums);
  if (walk.start)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      low = walk.start(s.row, h, first_key + r, first_value + c);
      high = walk.start(s.row, h, first_key + r, first_value + c + 1);
    });
  for (int n = 0; n < count; ++n) {
    const int begin = begin_of(n);
    const int rows = min(positions - begin, length);
    const bool adds = n < count - 1 || walk.end;
    const float* const factor = factors + n % 2 * Shared::factors;
#pragma unroll
    for (int at = 0; at < kTile; at += kDepth) {
      wait_for_older_groups<Shared::stages - 2>();
      __syncthreads();
      issue(at == 0 ? n : n + 1, (at + kTile - kDepth) % kTile);
      if (at == 0) {
        const Index place = first + (walk.backwards ? count - 1 - n : n);
        T* const to = walk.states + a.state(place, h) + first_value;
        put_rounded<T, Columns>(sums, tile, [&](int r, int c, uint4 words) {
          if (first_key + r < a.keys && first_value + c < a.values)
            *reinterpret_cast<uint4*>(to + static_cast<Index>(first_key + r) * a.values + c) =
                words;
        });
        const float fade = rows > 0 ? factor[kTile] : 1.0f;
        tile.each_pair(sums, [&](int, int, float& low, float& high) { low *= fade, high *= fade; });
      }
      if (at >= rows || !adds) continue;
      const T* const left = memory + at / kDepth * Shared::stage;
      const T* const right = left + Shared::left;
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        unsigned r[WarpTile<Columns>::eights][2];
        load_right<true>(r, right + k * (Columns + 8) + tile.column, Columns + 8);
        scale_right<T>(r, factor + at + k);
        add_products<true>(sums, left + k * (kTile + 8) + tile.row, kTile + 8, r);
      }
    }
  }
  if (walk.end)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      walk.end(s.row, h, first_key + r, first_value + c) = low;
      walk.end(s.row, h, first_key + r, first_value + c + 1) = high;
    });
}

/// A block: the weights of a chunk of kHeadsAtOnce heads of a group.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_weights_kernel(const __grid_constant__ TiledMemory<T> a) {
  const int shared = a.heads / a.groups;
  const int parts = tiles_of(shared, kHeadsAtOnce);
  const int part = static_cast<int>(blockIdx.x) % parts;
  const int g = static_cast<int>(blockIdx.x) / parts % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / parts / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const int first_head = g * shared + part * kHeadsAtOnce;
  const int heads = min(kHeadsAtOnce, shared - part * kHeadsAtOnce);
  const ProductStages<T, kTile> stages;
  float* const logs = stages.factors(false);
  const int thread = static_cast<int>(threadIdx.x);
  for (int n = thread / kTile; n < heads; n += kThreads / kTile)
    copy_factors(logs + n * kTile, a.log_sums, a, chunk, first_head + n, thread % kTile);
  const T* const q = a.q.at(chunk.s.batch, chunk.begin, g);
  const T* const k = a.k.at(chunk.s.batch, chunk.begin, g);
  const WarpTile<kTile> tile;
  const bool is_zero = tile.column > tile.row + 16 * tile.blocks - 1;  // nobody reads those
  Sums<kTile> sums;
  set_zero(sums);
  for_each_step<kStages>(
      steps_of(a.keys),
      [&](int step, int stage) {
        const int c = step * kDepth;
        copy_tile<kTile, kDepth>(stages.left(stage), kDeep, q + c, a.q.position, rows, a.keys - c);
        copy_tile<kTile, kDepth>(stages.right(stage), kDeep, k + c, a.k.position, rows, a.keys - c);
      },
      [&](int, int stage) {
        if (!is_zero)
          add_row_products<T, kTile>(sums, tile, stages.left(stage), stages.right(stage));
      });
  if (is_zero) return;
  const int lane = thread % 32;
  /// value(t, column of this thread, product) where m ≤ t, and zeros.
  const auto put_lower = [&](T* to, auto value) {
    Sums<kTile> lower;
#pragma unroll
    for (int block = 0; block < tile.blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = tile.row + block * 16 + half * 8 + lane / 4;
        const int last = t < rows ? t - tile.column - lane % 4 * 2 : -1;
#pragma unroll
        for (int j = 0; j < tile.eights; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            lower[block][j][2 * half + e] =
                j * 8 + e <= last ? value(t, 2 * j + e, sums[block][j][2 * half + e]) : 0.0f;
      }
    put_rounded<T, kTile>(lower, tile, [&](int r, int c, uint4 words) {
      *reinterpret_cast<uint4*>(to + r * kTile + c) = words;
    });
  };
  if (a.products != nullptr && part == 0)
    put_lower(a.products + a.pair(chunk.place, g), [](int, int, float product) { return product; });
  for (int n = 0; n < heads; ++n) {
    const float* const log = logs + n * kTile;
    float column_logs[2 * WarpTile<kTile>::eights];
#pragma unroll
    for (int j = 0; j < tile.eights; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        column_logs[2 * j + e] = log[tile.column + j * 8 + lane % 4 * 2 + e];
    put_lower(a.weights + a.weight(chunk.place, first_head + n),
              [&](int t, int column, float product) {
                return __expf(log[t] - column_logs[column]) * product;
              });
  }
}

/// Of four numbers, each summed over four neighboring lanes, that of number lane % 4.
__device__ float sum_of_rows(const float (&v)[4]) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool upper = (threadIdx.x & 2) != 0;
  const float low = (odd ? v[1] : v[0]) + __shfl_xor_sync(0xffffffffu, odd ? v[0] : v[1], 1);
  const float high = (odd ? v[3] : v[2]) + __shfl_xor_sync(0xffffffffu, odd ? v[2] : v[3], 1);
  return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 2);
}
/// Of eight numbers, each summed over the lanes that are equal modulo 4, that of number lane / 4.
__device__ float sum_of_columns(const float (&v)[8]) {
  float rest[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) rest[i] = v[i];
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (threadIdx.x & (4 * half)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? rest[i] : rest[i + half];
      const float kept = upper ? rest[i + half] : rest[i];
      rest[i] = kept + __shfl_xor_sync(0xffffffffu, given, 4 * half);
    }
  }
  return rest[0];
}
/// Where this thread's sum_of_rows and sum_of_columns belong, in tiles 32 wide and 32 high.
__device__ int row_of_sum() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane % 4 * 8 + lane / 4;
}
__device__ int column_of_sum() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2;
}

/// A block: `Columns` columns of the pairs of a chunk of a group. Several: of heads in a group.
/// HasSums: of these also the sums of pairs.
template <class T, int Columns, bool Several, bool HasSums>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_pairs_kernel(const __grid_constant__ TiledMemory<T> a,
                          const __grid_constant__ HeadRows<const T> dy,
                          const __grid_constant__ PositionSums to_sums) {
  using Tile = WarpTile<Columns>;
  static_assert(!HasSums || (Tile::width == 32 && 16 * Tile::blocks == 32));
  constexpr int across = kTile / Columns;
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int g = static_cast<int>(blockIdx.x) / across % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  float* const factors = stages.factors(false);  // [3, 2, 128]: log sums, and scales
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const Index b = chunk.s.batch;
  const int shared = Several ? a.heads / a.groups : 1;
  const int head_steps = steps_of(a.values);
  const Tile tile;
  const bool is_zero = first + tile.column > tile.row + 16 * tile.blocks - 1;
  Sums<Columns> total;
  Sums<Columns> sums;
  set_zero(total);
  set_zero(sums);
  unsigned products[Tile::blocks][2][Tile::eights];  // where m < t
  if constexpr (HasSums) {
    const T* const from = a.products + a.pair(chunk.place, g);
#pragma unroll
    for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j) {
          const int t = tile.row + block * 16 + half * 8 + lane / 4;
          const int m = first + tile.column + j * 8 + lane % 4 * 2;
          const unsigned pair =
              m < t ? *reinterpret_cast<const unsigned*>(from + t * kTile + m) : 0u;
          products[block][half][j] = m + 1 < t ? pair : pair & 0xffffu;
        }
  }
  for_each_step<kStages>(
      shared * head_steps,
      [&](int step, int stage) {
        const int n = Several ? step / head_steps : 0;
        const int h = g * shared + n;
        const int j = (step - n * head_steps) * kDepth;
        copy_tile<kTile, kDepth>(stages.left(stage), kDeep, dy.at(b, chunk.begin, h) + j,
                                 dy.position, rows, a.values - j);
        copy_tile<Columns, kDepth>(stages.right(stage), kDeep,
                                   a.v.at(b, chunk.begin + first, h) + j, a.v.position,
                                   rows - first, a.values - j);
        if (j == 0)
          copy_factors(factors + n % kStages * 2 * kTile + thread / kTile * kTile,
                       thread < kTile ? a.log_sums : a.scale, a, chunk, h, thread % kTile);
      },
      [&](int step, int stage) {
        if (is_zero) return;
        add_row_products<T, Columns>(sums, tile, stages.left(stage), stages.right(stage));
        const int n = Several ? step / head_steps : 0;
        if (step != (n + 1) * head_steps - 1) return;
        const float* const logs = factors + n % kStages * 2 * kTile;
        const float* const scales = logs + kTile;
        const Index at = a.position_sum(chunk.place, g * shared + n);
        if constexpr (HasSums) {
          // Of neighboring lanes, one has the diagonal.
          if (first + tile.column == tile.row && lane / 8 == lane % 4) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float(&own)[4] = sums[i / 2][i];
              to_sums.diagonal[at + tile.row + i * 8 + lane / 4] =
                  lane / 4 % 2 == 0 ? own[i % 2 * 2] : own[i % 2 * 2 + 1];
            }
          }
        }
        float row_sums[2 * Tile::blocks];
        float column_sums[2 * Tile::eights];
#pragma unroll
        for (int i = 0; i < 2 * Tile::blocks; ++i) row_sums[i] = 0;
#pragma unroll
        for (int i = 0; i < 2 * Tile::eights; ++i) column_sums[i] = 0;
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int m = first + tile.column + j * 8 + lane % 4 * 2 + e;
            const float log = logs[m];
            const float scale = scales[m];
#pragma unroll
            for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const int t = tile.row + block * 16 + half * 8 + lane / 4;
                float& sum = sums[block][j][2 * half + e];
                const float faded = m <= t && t < rows ? __expf(logs[t] - log) * sum : 0.0f;
                if constexpr (HasSums) {
                  const float2 pair = wide_pair<T>(products[block][half][j]);
                  const float weighted = faded * (e == 0 ? pair.x : pair.y);
                  column_sums[2 * j + e] += weighted;
                  row_sums[2 * block + half] += scale * weighted;
                }
                if constexpr (Several) {
                  total[block][j][2 * half + e] += scale * faded;
                  sum = 0;
                } else {
                  sum = scale * faded;
                }
              }
          }
        if constexpr (HasSums) {
          to_sums
              .rows[(first + tile.column) / 32 * a.position_sums() + at + tile.row + row_of_sum()] =
              sum_of_rows(row_sums);
          to_sums.columns[tile.row / 32 * a.position_sums() + at + first + tile.column +
                          column_of_sum()] = sum_of_columns(column_sums);
        }
      });
  T* const to = a.pairs + a.pair(chunk.place, g) + first;
  if (!is_zero)
    put_rounded<T, Columns>(Several ? total : sums, tile, [&](int r, int c, uint4 words) {
      *reinterpret_cast<uint4*>(to + r * kTile + c) = words;
    });
}

/// A block: `Columns` values of the positions of a chunk of a head.
template <class T, int Columns>
__global__ void __launch_bounds__(kThreads, Columns > kTile ? 1 : 2)
    multiply_values_kernel(const __grid_constant__ TiledMemory<T> a,
                           const __grid_constant__ ValueProduct<T> p) {
  const int across = tiles_of(a.values, Columns);
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int h = static_cast<int>(blockIdx.x) / across % a.heads;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.heads);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const int g = h / (a.heads / a.groups);
  const int state_steps = p.has_state ? steps_of(a.keys) : 0;
  const T* const x = p.x.at(b, chunk.begin, g);
  const T* const z = p.z.at(b, chunk.begin, h) + first;
  const T* const state = p.states + a.state(chunk.place, h) + first;
  T* const weights = stages.square();
  float* const factor = stages.factors(true);
  float* const scales = p.scale != nullptr ? factor + kTile : nullptr;
  copy_tile<kTile, kTile>(weights, kTile + 8, a.weights + a.weight(chunk.place, h), kTile, kTile,
                          kTile);
  if (thread < kTile)
    copy_factors(factor, p.factor, a, chunk, h, thread);
  else if (scales != nullptr)
    copy_factors(scales, p.scale, a, chunk, h, thread - kTile);
  const WarpTile<Columns> tile;
  Sums<Columns> sums;
  set_zero(sums);
  for_each_step<kStages>(
      state_steps + steps_of(rows),
      [&](int step, int stage) {
        if (step < state_steps) {
          const int c = step * kDepth;
          copy_tile<kTile, kDepth>(stages.left(stage), kDeep, x + c, p.x.position, rows,
                                   a.keys - c);
          copy_tile<kDepth, Columns>(stages.right(stage), Columns + 8,
                                     state + static_cast<Index>(c) * a.values, a.values, a.keys - c,
                                     a.values - first);
        } else {
          const int t = (step - state_steps) * kDepth;
          copy_tile<kDepth, Columns>(stages.right(stage), Columns + 8,
                                     z + static_cast<Index>(t) * p.z.position, p.z.position,
                                     rows - t, a.values - first);
        }
      },
      [&](int step, int stage) {
        if (step >= state_steps)
          return add_square_products<T, Columns>(sums, tile, weights, p.turned,
                                                 (step - state_steps) * kDepth, stages.right(stage),
                                                 scales);
#pragma unroll
        for (int k = 0; k < kDepth; k += 16) {
          unsigned r[WarpTile<Columns>::eights][2];
          load_right<true>(r, stages.right(stage) + k * (Columns + 8) + tile.column, Columns + 8);
          add_products<false>(sums, stages.left(stage) + tile.row * kDeep + k, kDeep, r);
        }
        if (step == state_steps - 1)
          tile.each_pair(sums, [&](int r, int, float& low, float& high) {
            low *= factor[r], high *= factor[r];
          });
      });
  if (p.row_scale != nullptr) {
    const float* const scale = p.row_scale + a.row(b, chunk.begin, h);
    tile.each_pair(sums, [&](int r, int, float& low, float& high) {
      const float own = r < rows ? scale[static_cast<Index>(r) * a.heads] : 0.0f;
      low *= own, high *= own;
    });
  }
  if (p.skip) {
    const float skip = p.skip(h);
    const T* const skipped = p.skipped.at(b, chunk.begin, h) + first;
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (r >= rows || first + c >= a.values) return;
      const float2 x = wide_pair(skipped + static_cast<Index>(r) * p.skipped.position + c);
      low += skip * x.x, high += skip * x.y;
    });
  }
  T* const to = p.y.at(b, chunk.begin, h) + first;
  put_rounded<T, Columns>(sums, tile, [&](int r, int c, uint4 words) {
    if (r < rows && first + c < a.values)
      *reinterpret_cast<uint4*>(to + static_cast<Index>(r) * p.y.position + c) = words;
  });
}

/// A block: `Columns` gradients of the keys, or queries, of a chunk of a group. Several: of heads
/// in a group. HasSums: of these also the sums of states.
template <class T, int Columns, bool Several, bool HasSums>
__global__ void __launch_bounds__(kThreads, Columns > kTile ? 1 : 2)
    multiply_keys_kernel(const __grid_constant__ TiledMemory<T> a,
                         const __grid_constant__ KeyProduct<T> p) {
  using Tile = WarpTile<Columns>;
  static_assert(!HasSums || (Tile::width == 32 && 16 * Tile::blocks == 32));
  const int across = tiles_of(a.keys, Columns);
  const int first = static_cast<int>(blockIdx.x) % across * Columns;
  const int g = static_cast<int>(blockIdx.x) / across % a.groups;
  const Chunk chunk = a.chunk(static_cast<int>(blockIdx.x) / across / a.groups);
  const int rows = static_cast<int>(chunk.end - chunk.begin);
  if (rows <= 0) return;
  const ProductStages<T, Columns> stages;
  float* const factors = stages.factors(true);  // [3, 128]
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const int shared = Several ? a.heads / a.groups : 1;
  const int head_steps = steps_of(a.values);
  const int state_steps = p.has_state ? shared * head_steps : 0;
  const T* const x = p.x.at(b, chunk.begin, g) + first;
  const int pair_steps = p.y ? steps_of(rows) : 0;
  if (p.y)
    copy_tile<kTile, kTile>(stages.square(), kTile + 8, a.pairs + a.pair(chunk.place, g), kTile,
                            kTile, kTile);
  const Tile tile;
  const int lane = thread % 32;
  unsigned partner[Tile::blocks][2][Tile::eights];
  if constexpr (HasSums) {
    const T* const from = p.partner.at(b, chunk.begin, g);
#pragma unroll
    for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < Tile::eights; ++j) {
          const int r = tile.row + block * 16 + half * 8 + lane / 4;
          const int c = first + tile.column + j * 8 + lane % 4 * 2;
          partner[block][half][j] = r < rows && c < a.keys
                                        ? *reinterpret_cast<const unsigned*>(
                                              from + static_cast<Index>(r) * p.partner.position + c)
                                        : 0u;
        }
  }
  Sums<Columns> total;
  Sums<Columns> sums;
  set_zero(total);
  set_zero(sums);
  for_each_step<kStages>(
      state_steps + pair_steps,
      [&](int step, int stage) {
        if (step < state_steps) {
          const int n = Several ? step / head_steps : 0;
          const int h = g * shared + n;
          const int j = (step - n * head_steps) * kDepth;
          copy_tile<kTile, kDepth>(stages.left(stage), kDeep, p.z.at(b, chunk.begin, h) + j,
                                   p.z.position, rows, a.values - j);
          copy_tile<Columns, kDepth>(
              stages.right(stage), kDeep,
              p.states + a.state(chunk.place, h) + static_cast<Index>(first) * a.values + j,
              a.values, a.keys - first, a.values - j);
          if (j == 0 && thread < kTile)
            copy_factors(factors + n % kStages * kTile, p.factor, a, chunk, h, thread);
        } else {
          const int t = (step - state_steps) * kDepth;
          copy_tile<kDepth, Columns>(stages.right(stage), Columns + 8,
                                     x + static_cast<Index>(t) * p.x.position, p.x.position,
                                     rows - t, a.keys - first);
        }
      },
      [&](int step, int stage) {
        if (step >= state_steps)
          return add_square_products<T, Columns>(Several ? total : sums, tile, stages.square(),
                                                 p.turned, (step - state_steps) * kDepth,
                                                 stages.right(stage), nullptr);
        add_row_products<T, Columns>(sums, tile, stages.left(stage), stages.right(stage));
        const int n = Several ? step / head_steps : 0;
        if (step != (n + 1) * head_steps - 1) return;
        const float* const factor = factors + n % kStages * kTile;
        if constexpr (HasSums) {
          float row_sums[2 * Tile::blocks];
#pragma unroll
          for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float& sum = row_sums[2 * block + half];
              sum = 0;
#pragma unroll
              for (int j = 0; j < Tile::eights; ++j) {
                const float2 pair = wide_pair<T>(partner[block][half][j]);
                sum += pair.x * sums[block][j][2 * half];
                sum += pair.y * sums[block][j][2 * half + 1];
              }
            }
          const float sum = sum_of_rows(row_sums);
          if (first + tile.column < a.keys)
            p.sums[(first + tile.column) / 32 * a.position_sums() +
                   a.position_sum(chunk.place, g * shared + n) + tile.row + row_of_sum()] = sum;
        }
#pragma unroll
        for (int block = 0; block < Tile::blocks; ++block)
#pragma unroll
          for (int j = 0; j < Tile::eights; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float faded =
                  factor[tile.row + block * 16 + e / 2 * 8 + lane / 4] * sums[block][j][e];
              if constexpr (Several) {
                total[block][j][e] += faded;
                sums[block][j][e] = 0;
              } else {
                sums[block][j][e] = faded;
              }
            }
      });
  if (!p.y) return;
  T* const to = p.y.at(b, chunk.begin, g) + first;
  put_rounded<T, Columns>(Several ? total : sums, tile, [&](int r, int c, uint4 words) {
    if (r < rows && first + c < a.keys)
      *reinterpret_cast<uint4*>(to + static_cast<Index>(r) * p.y.position + c) = words;
  });
}

template <class... Parameters, class... Arguments>
void launch_blocks(void (*kernel)(Parameters...), Index blocks, std::size_t shared, Stream stream,
                   const char* operation, const Arguments&... arguments) {
  if (blocks == 0) return;
  require(blocks <= 0x7fffffff, operation, "the operands are too large");
  launch(kernel, dim3(static_cast<unsigned>(blocks)), kThreads, shared, stream, operation,
         arguments...);
}

}  // namespace

template <class T>
void walk_states(const TiledMemory<T>& a, const StateWalk<T>& walk, Stream stream,
                 const char* operation) {
  const auto blocks_of = [&](int columns) {
    return a.chunking.packing.sequences * a.heads * tiles_of(a.keys, kTile) *
           tiles_of(a.values, columns);
  };
  const auto walk_by = [&]<int Columns>(std::integral_constant<int, Columns>) {
    launch_blocks(walk_states_kernel<T, Columns>, blocks_of(Columns), WalkShared<Columns>::bytes,
                  stream, operation, a, walk);
  };
  // Wide tiles read keys less often, narrow ones are more.
  if (a.values <= kTile / 2 || blocks_of(kTile) < kMultiprocessors)
    walk_by(std::integral_constant<int, kTile / 2>());
  else if (a.values % (2 * kTile) == 0 && 3 * blocks_of(2 * kTile) >= 2 * kMultiprocessors)
    walk_by(std::integral_constant<int, 2 * kTile>());
  else
    walk_by(std::integral_constant<int, kTile>());
}

template <class T>
void multiply_weights(const TiledMemory<T>& a, Stream stream, const char* operation) {
  const int parts = tiles_of(a.heads / a.groups, kHeadsAtOnce);
  launch_blocks(multiply_weights_kernel<T>, a.chunking.places * a.groups * parts,
                ProductShared<kTile>::bytes(false), stream, operation, a);
}

template <class T>
void multiply_pairs(const TiledMemory<T>& a, const HeadRows<const T>& dy, const PositionSums& sums,
                    Stream stream, const char* operation) {
  const Index groups = a.chunking.places * a.groups;
  const auto multiply_by = [&](auto kernel, int columns, std::size_t shared) {
    launch_blocks(kernel, groups * tiles_of(kTile, columns), shared, stream, operation, a, dy,
                  sums);
  };
  constexpr std::size_t half = ProductShared<kTile / 2>::bytes(false);
  if (sums)
    multiply_by(multiply_pairs_kernel<T, kTile / 2, true, true>, kTile / 2, half);
  else if (a.heads > a.groups)
    multiply_by(multiply_pairs_kernel<T, kTile / 2, true, false>, kTile / 2, half);
  else
    multiply_by(multiply_pairs_kernel<T, kTile, false, false>, kTile,
                ProductShared<kTile>::bytes(false));
}

template <class T>
void multiply_values(const TiledMemory<T>& a, const ValueProduct<T>& product, Stream stream,
                     const char* operation) {
  const auto multiply_by = [&]<int Columns>(std::integral_constant<int, Columns>) {
    launch_blocks(multiply_values_kernel<T, Columns>,
                  a.chunking.places * a.heads * tiles_of(a.values, Columns),
                  ProductShared<Columns>::bytes(true), stream, operation, a, product);
  };
  if (value_tile(a.values) == 64)
    multiply_by(std::integral_constant<int, 64>());
  else if (a.values % 256 != 0)
    multiply_by(std::integral_constant<int, 128>());
  else
    multiply_by(std::integral_constant<int, 256>());
}

template <class T>
void multiply_keys(const TiledMemory<T>& a, const KeyProduct<T>& product, Stream stream,
                   const char* operation) {
  const Index groups = a.chunking.places * a.groups;
  const auto multiply_by = [&](auto kernel, int columns, std::size_t shared) {
    launch_blocks(kernel, groups * tiles_of(a.keys, columns), shared, stream, operation, a,
                  product);
  };
  constexpr std::size_t half = ProductShared<kTile / 2>::bytes(true);
  if (product.sums != nullptr)
    multiply_by(multiply_keys_kernel<T, kTile / 2, true, true>, kTile / 2, half);
  else if (a.heads > a.groups)
    multiply_by(multiply_keys_kernel<T, kTile / 2, true, false>, kTile / 2, half);
  else
    multiply_by(multiply_keys_kernel<T, kTile, false, false>, kTile,
                ProductShared<kTile>::bytes(true));
}

#define SSM_INSTANTIATE(T)                                                                       \
  template void walk_states<T>(const TiledMemory<T>&, const StateWalk<T>&, Stream, const char*); \
  template void multiply_weights<T>(const TiledMemory<T>&, Stream, const char*);                 \
  template void multiply_pairs<T>(const TiledMemory<T>&, const HeadRows<const T>&,               \
                                  const PositionSums&, Stream, const char*);                     \
  template void multiply_values<T>(const TiledMemory<T>&, const ValueProduct<T>&, Stream,        \
                                   const char*);                                                 \
  template void multiply_keys<T>(const TiledMemory<T>&, const KeyProduct<T>&, Stream, const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
