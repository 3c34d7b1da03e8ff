// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "scan/decayed_tiles.cuh"

namespace ssm::cuda::device {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kDepth = 32;         // terms of a product that a stage holds
constexpr int kStages = 3;         // in shared memory: one is multiplied while two are on their way
constexpr int kDeep = kDepth + 8;  // numbers of a padded row of as many
constexpr int kChunkSteps = kTile / kDepth;

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
/// Waits for all groups of this thread but the last.
__device__ void wait_for_older_groups() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

/// Rows × Columns numbers, zeros beyond `rows` and `columns`; columns is a multiple of 8.
template <int Rows, int Columns, class T>
__device__ void copy_tile(T* to, int pitch, const T* from, Index stride, Index rows,
                          Index columns) {
  constexpr int pieces = Columns / 8;
#pragma unroll
  for (int i = 0; i < Rows * pieces / kThreads; ++i) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x);
    const int r = piece / pieces;
    const int c = piece % pieces * 8;
    const bool exists = r < rows && c < columns;
    copy_or_zero(static_cast<void*>(to + r * pitch + c), exists ? from + r * stride + c : from,
                 exists);
  }
}
/// One number of every position of a chunk, zeros beyond its end; `from` is of [B, L, H].
template <class T>
__device__ void copy_factors(float* to, const float* from, const TiledMemory<T>& a,
                             const Chunk& chunk, Index h, int thread) {
  const bool exists = thread < chunk.end - chunk.begin;
  copy_or_zero(to + thread, exists ? from + a.row(chunk.s.batch, chunk.begin + thread, h) : from,
               exists);
}

// Products ----------------------------------------------------------------------------------------

/// The part of a tile of 128 × Columns sums that a warp has: 16·blocks rows, 32 columns.
template <int Columns>
struct WarpTile {
  static constexpr int across = Columns / 32;  // warps beside each other
  static constexpr int blocks = across;        // of 16 rows
  static_assert(kWarps / across * 16 * blocks == kTile);

  __device__ WarpTile()
      : row(static_cast<int>(threadIdx.x) / 32 / across * 16 * blocks),
        column(static_cast<int>(threadIdx.x) / 32 % across * 32) {}

  /// f(row, column, the sums of it and of the column behind it)
  template <class F>
  __device__ void each_pair(float (&sums)[blocks][4][4], F f) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int block = 0; block < blocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          f(row + block * 16 + half * 8 + lane / 4, column + j * 8 + lane % 4 * 2,
            sums[block][j][2 * half], sums[block][j][2 * half + 1]);
  }

  int row;
  int column;
};

/// The second operand of 16 terms, [term, column] if by_terms, else [column, term].
template <bool by_terms, class T>
__device__ void load_right(unsigned (&right)[4][2], const T* b, int pitch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
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
template <bool by_terms, class T, int Blocks>
__device__ void add_products(float (&sums)[Blocks][4][4], const T* a, int pitch,
                             const unsigned (&right)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
    unsigned left[4];
    if constexpr (by_terms)
      load_transposed(left, a + (lane % 8 + lane / 16 * 8) * pitch + block * 16 + lane / 8 % 2 * 8);
    else
      load_tiles(left, a + (block * 16 + lane % 16) * pitch + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      multiply_half_tile<T>(sums[block][j], left, right[j][0], right[j][1]);
  }
}
/// Of a stage: left [128, 32], right [columns, 32], both padded.
template <class T, int Columns>
__device__ void add_row_products(float (&sums)[Columns / 32][4][4], const WarpTile<Columns>& tile,
                                 const T* left, const T* right) {
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    unsigned r[4][2];
    load_right<false>(r, right + tile.column * kDeep + k, kDeep);
    add_products<false>(sums, left + tile.row * kDeep + k, kDeep, r);
  }
}
/// Of terms `first` … first + 31 of a square [128, 128], or of a turned one, and of right
/// [32, Columns]; where the square is zero nothing is done.
template <class T, int Columns>
__device__ void add_square_products(float (&sums)[Columns / 32][4][4],
                                    const WarpTile<Columns>& tile, const T* square, bool turned,
                                    int first, const T* right) {
  constexpr int pitch = kTile + 8;
  constexpr int rows = 16 * WarpTile<Columns>::blocks;
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    const int term = first + k;
    if (turned ? term + 15 < tile.row : term > tile.row + rows - 1) continue;
    unsigned r[4][2];
    load_right<true>(r, right + k * (Columns + 8) + tile.column, Columns + 8);
    if (turned)
      add_products<true>(sums, square + term * pitch + tile.row, pitch, r);
    else
      add_products<false>(sums, square + tile.row * pitch + term, pitch, r);
  }
}

template <int Blocks>
__device__ void set_zero(float (&sums)[Blocks][4][4]) {
#pragma unroll
  for (int block = 0; block < Blocks; ++block)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[block][j][e] = 0;
}

/// Rounds a tile to shared memory.
template <class T, int Columns>
__device__ void round_tile(float (&sums)[Columns / 32][4][4], const WarpTile<Columns>& tile,
                           T* to) {
  tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
    *reinterpret_cast<unsigned*>(to + r * (Columns + 8) + c) = pack_pair<T>(low, high);
  });
}
/// put(row, column, eight floats) for all of a tile of a block; all its threads have to come here.
template <int Columns, class Put>
__device__ void put_tile(float (&sums)[Columns / 32][4][4], const WarpTile<Columns>& tile,
                         float* shared, Put put) {
  constexpr int pitch = Columns + 4;
  __syncthreads();
  tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
    *reinterpret_cast<float2*>(shared + r * pitch + c) = {low, high};
  });
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTile * Columns / 8 / kThreads; ++i) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x);
    const int r = piece / (Columns / 8);
    const int c = piece % (Columns / 8) * 8;
    float value[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) value[e] = shared[r * pitch + c + e];
    put(r, c, value);
  }
}

// Shared memory -----------------------------------------------------------------------------------

template <class T>
__device__ T* shared_numbers() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

/// Stages of two operands, each at most 128 × 32 padded.
struct ProductShared {
  static constexpr int operand = kTile * kDeep;
  static constexpr int stages = kStages * 2 * operand;
  static constexpr int square = kTile * (kTile + 8);
  static constexpr std::size_t factors = kStages * 2 * kTile * sizeof(float);
  static constexpr std::size_t bytes = (stages + square) * 2 + factors;
  static constexpr std::size_t bytes_of_stages = stages * 2 + factors;
};

template <class T>
struct ProductStages {
  __device__ ProductStages() : memory(shared_numbers<T>()) {}
  __device__ T* left(Index i) const {
    return memory + static_cast<int>(i % kStages) * 2 * ProductShared::operand;
  }
  __device__ T* right(Index i) const { return left(i) + ProductShared::operand; }
  __device__ T* square() const { return memory + ProductShared::stages; }
  /// 6 × 128 floats behind the square, or behind the stages.
  __device__ float* factors(bool has_square) const {
    return reinterpret_cast<float*>(square() + (has_square ? ProductShared::square : 0));
  }

  T* memory;
};

__device__ Index steps_of(Index terms) { return (terms + kDepth - 1) / kDepth; }
constexpr Index tiles_of(Index n, int size) { return (n + size - 1) / size; }

// Kernels -----------------------------------------------------------------------------------------

template <int Columns>
struct WalkShared {
  static constexpr int left = kDepth * (kTile + 8);
  static constexpr int right = kDepth * (Columns + 8);
  static constexpr int stage = left + right;
  static constexpr int rounded = kTile * (Columns + 8);
  static constexpr int factors = kTile + 4;  // floats: weights of a chunk, and its fade
  static constexpr std::size_t bytes =
      (kStages * stage + rounded) * 2 + 2 * factors * sizeof(float);
};

/// A block walks with 128 × Columns of a head's state along a sequence.
template <class T, int Columns>
__global__ void __launch_bounds__(kThreads, 2)
    walk_states_kernel(const __grid_constant__ TiledMemory<T> a,
                       const __grid_constant__ StateWalk<T> walk) {
  using Shared = WalkShared<Columns>;
  T* const memory = shared_numbers<T>();
  T* const rounded = memory + kStages * Shared::stage;
  float* const factors = reinterpret_cast<float*>(rounded + Shared::rounded);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const Index across = tiles_of(a.values, Columns);
  const Index down = tiles_of(a.keys, kTile);
  Index i = blockIdx.x;
  const Index first_value = i % across * Columns;
  i /= across;
  const Index first_key = i % down * kTile;
  i /= down;
  const Index h = i % a.heads;
  const Sequence s = a.chunking.packing.sequence(i / a.heads);
  const Index g = h / (a.heads / a.groups);
  const Index first = a.chunking.first(s);
  const Index count = a.chunking.count(s);
  const Index steps = count * kChunkSteps;
  const auto chunk_at = [&](Index n) -> Chunk {
    const Index number = walk.backwards ? count - 1 - n : n;
    const Index begin = s.begin + number * a.chunking.length;
    const Index end = begin + a.chunking.length;
    return {s, first + number, begin, end < s.end ? end : s.end, true};
  };
  const auto issue = [&](Index step) {
    if (step < steps) {
      const Chunk chunk = chunk_at(step / kChunkSteps);
      const int at = static_cast<int>(step % kChunkSteps) * kDepth;
      const Index t = chunk.begin + at;
      T* const left = memory + static_cast<int>(step % kStages) * Shared::stage;
      copy_tile<kDepth, kTile>(left, kTile + 8, walk.left.at(s.batch, t, g) + first_key,
                               walk.left.position, chunk.end - t, a.keys - first_key);
      copy_tile<kDepth, Columns>(left + Shared::left, Columns + 8,
                                 walk.right.at(s.batch, t, h) + first_value, walk.right.position,
                                 chunk.end - t, a.values - first_value);
      if (at == 0) {
        float* const to = factors + step / kChunkSteps % 2 * Shared::factors;
        if (thread < kTile) copy_factors(to, walk.weight, a, chunk, h, thread);
        if (thread == kTile) {
          const bool exists = chunk.end > chunk.begin;
          copy_or_zero(to + kTile,
                       exists ? a.from_begin + a.row(s.batch, chunk.end - 1, h) : a.from_begin,
                       exists);
        }
      }
    }
    end_group();
  };
  issue(0);
  issue(1);
  const WarpTile<Columns> tile;
  float sums[tile.blocks][4][4];
  set_zero(sums);
  if (walk.start)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      low = walk.start(s.row, h, first_key + r, first_value + c);
      high = walk.start(s.row, h, first_key + r, first_value + c + 1);
    });
  for (Index step = 0; step < steps; ++step) {
    wait_for_older_groups();
    __syncthreads();
    issue(step + 2);
    const Index n = step / kChunkSteps;
    const int at = static_cast<int>(step % kChunkSteps) * kDepth;
    const Chunk chunk = chunk_at(n);
    const float* const factor = factors + n % 2 * Shared::factors;
    if (at == 0) {
      round_tile<T>(sums, tile, rounded);
      const float fade = chunk.end > chunk.begin ? factor[kTile] : 1.0f;
      tile.each_pair(sums, [&](int, int, float& low, float& high) { low *= fade, high *= fade; });
    } else if (at == kDepth) {
      T* const to = walk.states + a.state(chunk.place, h);
#pragma unroll
      for (int k = 0; k < kTile * Columns / 8 / kThreads; ++k) {
        const int piece = k * kThreads + thread;
        const int r = piece / (Columns / 8);
        const int c = piece % (Columns / 8) * 8;
        if (first_key + r < a.keys && first_value + c < a.values)
          *reinterpret_cast<uint4*>(to + (first_key + r) * a.values + first_value + c) =
              *reinterpret_cast<const uint4*>(rounded + r * (Columns + 8) + c);
      }
    }
    if (chunk.begin + at >= chunk.end || (n == count - 1 && !walk.end)) continue;
    const T* const left = memory + static_cast<int>(step % kStages) * Shared::stage;
    const T* const right = left + Shared::left;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned r[4][2];
      load_right<true>(r, right + k * (Columns + 8) + tile.column, Columns + 8);
      const float* const weight = factor + at + k + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        r[j][0] = scale_pair<T>(r[j][0], weight[0], weight[1]);
        r[j][1] = scale_pair<T>(r[j][1], weight[8], weight[9]);
      }
      add_products<true>(sums, left + k * (kTile + 8) + tile.row, kTile + 8, r);
    }
  }
  if (walk.end)
    tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
      if (first_key + r >= a.keys || first_value + c >= a.values) return;
      walk.end(s.row, h, first_key + r, first_value + c) = low;
      walk.end(s.row, h, first_key + r, first_value + c + 1) = high;
    });
}

/// A block: the scores of a chunk of a group.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_scores_kernel(const __grid_constant__ TiledMemory<T> a) {
  const Index g = blockIdx.x % a.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / a.groups);
  const Index rows = chunk.end - chunk.begin;
  if (rows <= 0) return;
  const ProductStages<T> stages;
  const Index steps = steps_of(a.keys);
  const T* const q = a.q.at(chunk.s.batch, chunk.begin, g);
  const T* const k = a.k.at(chunk.s.batch, chunk.begin, g);
  const auto issue = [&](Index step) {
    if (step < steps) {
      const Index c = step * kDepth;
      copy_tile<kTile, kDepth>(stages.left(step), kDeep, q + c, a.q.position, rows, a.keys - c);
      copy_tile<kTile, kDepth>(stages.right(step), kDeep, k + c, a.k.position, rows, a.keys - c);
    }
    end_group();
  };
  issue(0);
  issue(1);
  const WarpTile<kTile> tile;
  float sums[tile.blocks][4][4];
  set_zero(sums);
  for (Index step = 0; step < steps; ++step) {
    wait_for_older_groups();
    __syncthreads();
    issue(step + 2);
    if (tile.column <= tile.row + 16 * tile.blocks - 1)
      add_row_products<T, kTile>(sums, tile, stages.left(step), stages.right(step));
  }
  float* const to = a.scores + a.tile(chunk.place, g);
  tile.each_pair(sums, [&](int r, int c, float& low, float& high) {
    *reinterpret_cast<float2*>(to + r * kTile + c) = {low, high};
  });
}

/// A block: half of the columns of the pairs of a chunk of a group.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_pairs_kernel(const __grid_constant__ TiledMemory<T> a,
                          const __grid_constant__ HeadRows<const T> dy) {
  constexpr int columns = kTile / 2;
  const int first = static_cast<int>(blockIdx.x % 2) * columns;
  const Index g = blockIdx.x / 2 % a.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / 2 / a.groups);
  const Index rows = chunk.end - chunk.begin;
  if (rows <= 0) return;
  const ProductStages<T> stages;
  float* const factors = stages.factors(false);  // [3, 2, 128]: log sums, and scales
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const Index shared = a.heads / a.groups;
  const Index head_steps = steps_of(a.values);
  const Index steps = shared * head_steps;
  const auto issue = [&](Index step) {
    if (step < steps) {
      const Index n = step / head_steps;
      const Index h = g * shared + n;
      const Index j = step % head_steps * kDepth;
      copy_tile<kTile, kDepth>(stages.left(step), kDeep, dy.at(b, chunk.begin, h) + j, dy.position,
                               rows, a.values - j);
      copy_tile<columns, kDepth>(stages.right(step), kDeep,
                                 a.v.at(b, chunk.begin + (first < rows ? first : 0), h) + j,
                                 a.v.position, rows - first, a.values - j);
      if (j == 0)
        copy_factors(factors + n % kStages * 2 * kTile + thread / kTile * kTile,
                     thread < kTile ? a.log_sums : a.scale, a, chunk, h, thread % kTile);
    }
    end_group();
  };
  issue(0);
  issue(1);
  const WarpTile<columns> tile;
  float total[tile.blocks][4][4];
  float sums[tile.blocks][4][4];
  set_zero(total);
  set_zero(sums);
  for (Index step = 0; step < steps; ++step) {
    wait_for_older_groups();
    __syncthreads();
    issue(step + 2);
    if (first + tile.column > tile.row + 16 * tile.blocks - 1) continue;
    add_row_products<T, columns>(sums, tile, stages.left(step), stages.right(step));
    if (step % head_steps != head_steps - 1) continue;
    const float* const logs = factors + step / head_steps % kStages * 2 * kTile;
    const float* const scales = logs + kTile;
    const int lane = thread % 32;
#pragma unroll
    for (int block = 0; block < tile.blocks; ++block)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int t = tile.row + block * 16 + e / 2 * 8 + lane / 4;
          const int m = first + tile.column + j * 8 + lane % 4 * 2 + e % 2;
          if (m <= t && t < rows)
            total[block][j][e] += __expf(logs[t] - logs[m]) * scales[m] * sums[block][j][e];
          sums[block][j][e] = 0;
        }
  }
  __syncthreads();
  T* const rounded = stages.memory;
  round_tile<T>(total, tile, rounded);
  __syncthreads();
  T* const to = a.pairs + a.tile(chunk.place, g);
#pragma unroll
  for (int i = 0; i < kTile * columns / 8 / kThreads; ++i) {
    const int piece = i * kThreads + thread;
    const int r = piece / (columns / 8);
    const int c = piece % (columns / 8) * 8;
    *reinterpret_cast<uint4*>(to + r * kTile + first + c) =
        *reinterpret_cast<const uint4*>(rounded + r * (columns + 8) + c);
  }
}

/// A block: `Columns` values of the positions of a chunk of a head.
template <class T, int Columns>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_values_kernel(const __grid_constant__ TiledMemory<T> a,
                           const __grid_constant__ ValueProduct<T> p) {
  const Index across = tiles_of(a.values, Columns);
  const Index first = blockIdx.x % across * Columns;
  const Index h = blockIdx.x / across % a.heads;
  const Chunk chunk = a.chunking.at(blockIdx.x / across / a.heads);
  const Index rows = chunk.end - chunk.begin;
  if (rows <= 0) return;
  const ProductStages<T> stages;
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const Index g = h / (a.heads / a.groups);
  const Index state_steps = p.has_state ? steps_of(a.keys) : 0;
  const Index steps = state_steps + steps_of(rows);
  const T* const x = p.x.at(b, chunk.begin, g);
  const T* const z = p.z.at(b, chunk.begin, h) + first;
  const T* const state = p.states + a.state(chunk.place, h) + first;
  const auto issue = [&](Index step) {
    if (step < state_steps) {
      const Index c = step * kDepth;
      copy_tile<kTile, kDepth>(stages.left(step), kDeep, x + c, p.x.position, rows, a.keys - c);
      copy_tile<kDepth, Columns>(stages.right(step), Columns + 8, state + c * a.values, a.values,
                                 a.keys - c, a.values - first);
    } else if (step < steps) {
      const Index t = (step - state_steps) * kDepth;
      copy_tile<kDepth, Columns>(stages.right(step), Columns + 8, z + t * p.z.position,
                                 p.z.position, rows - t, a.values - first);
    }
    end_group();
  };
  issue(0);
  issue(1);
  float* const logs = stages.factors(true);
  float* const scales = logs + kTile;
  float* const factor = scales + kTile;
  if (thread < kTile) {
    const bool exists = thread < rows;
    const Index row = a.row(b, chunk.begin + (exists ? thread : 0), h);
    logs[thread] = exists ? a.log_sums[row] : 0.0f;
    scales[thread] = exists && !p.turned ? a.scale[row] : 1.0f;
    factor[thread] = exists ? p.factor[row] : 0.0f;
  }
  __syncthreads();
  T* const weights = stages.square();
  const float* const scores = a.scores + a.tile(chunk.place, g);
#pragma unroll 8
  for (int i = 0; i < kTile * kTile / 2 / kThreads; ++i) {
    const int pair = i * kThreads + thread;
    const int t = pair / (kTile / 2);
    const int m = pair % (kTile / 2) * 2;
    float low = 0;
    float high = 0;
    if (m <= t && t < rows) {
      const float2 score = *reinterpret_cast<const float2*>(scores + t * kTile + m);
      low = __expf(logs[t] - logs[m]) * scales[m] * score.x;
      if (m < t) high = __expf(logs[t] - logs[m + 1]) * scales[m + 1] * score.y;
    }
    *reinterpret_cast<unsigned*>(weights + t * (kTile + 8) + m) = pack_pair<T>(low, high);
  }
  const WarpTile<Columns> tile;
  float sums[tile.blocks][4][4];
  set_zero(sums);
  for (Index step = 0; step < steps; ++step) {
    wait_for_older_groups();
    __syncthreads();
    issue(step + 2);
    if (step < state_steps) {
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        unsigned r[4][2];
        load_right<true>(r, stages.right(step) + k * (Columns + 8) + tile.column, Columns + 8);
        add_products<false>(sums, stages.left(step) + tile.row * kDeep + k, kDeep, r);
      }
      if (step == state_steps - 1)
        tile.each_pair(sums, [&](int r, int, float& low, float& high) {
          low *= factor[r], high *= factor[r];
        });
    } else {
      add_square_products<T, Columns>(sums, tile, weights, p.turned,
                                      static_cast<int>(step - state_steps) * kDepth,
                                      stages.right(step));
    }
  }
  const float skip = p.skip ? p.skip(h) : 0.0f;
  put_tile<Columns>(
      sums, tile, reinterpret_cast<float*>(stages.memory), [&](int r, int c, float(&value)[8]) {
        if (r >= rows || first + c >= a.values) return;
        const Index t = chunk.begin + r;
        if (p.wide != nullptr)
          return store_eight(p.wide + a.row(b, t, h) * a.values + first + c, 8, true, value);
        if (p.skip) {
          float skipped[8];
          load_eight(p.skipped.at(b, t, h) + first + c, 8, true, skipped);
#pragma unroll
          for (int e = 0; e < 8; ++e) value[e] += skip * skipped[e];
        }
        store_eight(p.y.at(b, t, h) + first + c, 8, true, value);
      });
}

/// A block: `Columns` gradients of the keys, or queries, of a chunk of a group. Several: of heads
/// in a group.
template <class T, int Columns, bool Several>
__global__ void __launch_bounds__(kThreads, 2)
    multiply_keys_kernel(const __grid_constant__ TiledMemory<T> a,
                         const __grid_constant__ KeyProduct<T> p) {
  const Index across = tiles_of(a.keys, Columns);
  const Index first = blockIdx.x % across * Columns;
  const Index g = blockIdx.x / across % a.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / across / a.groups);
  const Index rows = chunk.end - chunk.begin;
  if (rows <= 0) return;
  const ProductStages<T> stages;
  float* const factors = stages.factors(true);  // [3, 128]
  const int thread = static_cast<int>(threadIdx.x);
  const Index b = chunk.s.batch;
  const Index shared = a.heads / a.groups;
  const Index head_steps = steps_of(a.values);
  const Index state_steps = p.has_state ? shared * head_steps : 0;
  const Index steps = state_steps + steps_of(rows);
  const T* const x = p.x.at(b, chunk.begin, g) + first;
  const auto issue = [&](Index step) {
    if (step < state_steps) {
      const Index n = step / head_steps;
      const Index h = g * shared + n;
      const Index j = step % head_steps * kDepth;
      copy_tile<kTile, kDepth>(stages.left(step), kDeep, p.z.at(b, chunk.begin, h) + j,
                               p.z.position, rows, a.values - j);
      copy_tile<Columns, kDepth>(stages.right(step), kDeep,
                                 p.states + a.state(chunk.place, h) + first * a.values + j,
                                 a.values, a.keys - first, a.values - j);
      if (j == 0 && thread < kTile)
        copy_factors(factors + n % kStages * kTile, p.factor, a, chunk, h, thread);
    } else if (step < steps) {
      const Index t = (step - state_steps) * kDepth;
      copy_tile<kDepth, Columns>(stages.right(step), Columns + 8, x + t * p.x.position,
                                 p.x.position, rows - t, a.keys - first);
    }
    end_group();
  };
  copy_tile<kTile, kTile>(stages.square(), kTile + 8, a.pairs + a.tile(chunk.place, g), kTile,
                          kTile, kTile);
  issue(0);
  issue(1);
  const WarpTile<Columns> tile;
  float total[tile.blocks][4][4];
  set_zero(total);
  const auto scale = [&](Index n, float(&sums)[WarpTile<Columns>::blocks][4][4]) {
    tile.each_pair(sums, [&](int r, int, float& low, float& high) {
      const float factor = factors[n % kStages * kTile + r];
      low *= factor, high *= factor;
    });
  };
  Index step = 0;
  if constexpr (Several) {
    float sums[tile.blocks][4][4];
    set_zero(sums);
    for (; step < state_steps; ++step) {
      wait_for_older_groups();
      __syncthreads();
      issue(step + 2);
      add_row_products<T, Columns>(sums, tile, stages.left(step), stages.right(step));
      if (step % head_steps != head_steps - 1) continue;
      scale(step / head_steps, sums);
#pragma unroll
      for (int block = 0; block < tile.blocks; ++block)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) total[block][j][e] += sums[block][j][e];
      set_zero(sums);
    }
  } else {
    for (; step < state_steps; ++step) {
      wait_for_older_groups();
      __syncthreads();
      issue(step + 2);
      add_row_products<T, Columns>(total, tile, stages.left(step), stages.right(step));
      if (step == state_steps - 1) scale(0, total);
    }
  }
  for (; step < steps; ++step) {
    wait_for_older_groups();
    __syncthreads();
    issue(step + 2);
    add_square_products<T, Columns>(total, tile, stages.square(), p.turned,
                                    static_cast<int>(step - state_steps) * kDepth,
                                    stages.right(step));
  }
  put_tile<Columns>(total, tile, reinterpret_cast<float*>(stages.memory),
                    [&](int r, int c, float(&value)[8]) {
                      if (r < rows && first + c < a.keys)
                        store_eight(p.y.at(b, chunk.begin + r, g) + first + c, 8, true, value);
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
  const Index tiles = a.chunking.packing.sequences * a.heads * tiles_of(a.keys, kTile);
  if (a.values <= 64)
    launch_blocks(walk_states_kernel<T, 64>, tiles * tiles_of(a.values, 64), WalkShared<64>::bytes,
                  stream, operation, a, walk);
  else
    launch_blocks(walk_states_kernel<T, 128>, tiles * tiles_of(a.values, 128),
                  WalkShared<128>::bytes, stream, operation, a, walk);
}

template <class T>
void multiply_scores(const TiledMemory<T>& a, Stream stream, const char* operation) {
  launch_blocks(multiply_scores_kernel<T>, a.chunking.places * a.groups,
                ProductShared::bytes_of_stages, stream, operation, a);
}

template <class T>
void multiply_pairs(const TiledMemory<T>& a, const HeadRows<const T>& dy, Stream stream,
                    const char* operation) {
  launch_blocks(multiply_pairs_kernel<T>, 2 * a.chunking.places * a.groups,
                ProductShared::bytes_of_stages, stream, operation, a, dy);
}

template <class T>
void multiply_values(const TiledMemory<T>& a, const ValueProduct<T>& product, Stream stream,
                     const char* operation) {
  const Index heads = a.chunking.places * a.heads;
  if (a.values <= 64)
    launch_blocks(multiply_values_kernel<T, 64>, heads * tiles_of(a.values, 64),
                  ProductShared::bytes, stream, operation, a, product);
  else
    launch_blocks(multiply_values_kernel<T, 128>, heads * tiles_of(a.values, 128),
                  ProductShared::bytes, stream, operation, a, product);
}

template <class T>
void multiply_keys(const TiledMemory<T>& a, const KeyProduct<T>& product, Stream stream,
                   const char* operation) {
  const Index groups = a.chunking.places * a.groups;
  if (a.heads > a.groups)
    launch_blocks(multiply_keys_kernel<T, 64, true>, groups * tiles_of(a.keys, 64),
                  ProductShared::bytes, stream, operation, a, product);
  else
    launch_blocks(multiply_keys_kernel<T, 128, false>, groups * tiles_of(a.keys, 128),
                  ProductShared::bytes, stream, operation, a, product);
}

#define SSM_INSTANTIATE(T)                                                                       \
  template void walk_states<T>(const TiledMemory<T>&, const StateWalk<T>&, Stream, const char*); \
  template void multiply_scores<T>(const TiledMemory<T>&, Stream, const char*);                  \
  template void multiply_pairs<T>(const TiledMemory<T>&, const HeadRows<const T>&, Stream,       \
                                  const char*);                                                  \
  template void multiply_values<T>(const TiledMemory<T>&, const ValueProduct<T>&, Stream,        \
                                   const char*);                                                 \
  template void multiply_keys<T>(const TiledMemory<T>&, const KeyProduct<T>&, Stream, const char*);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
