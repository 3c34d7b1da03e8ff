// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

template <class T>
struct BackwardLaunch {
  DiagonalScanBackward<T> call;
  const char* workspace;
  const Complex<float>* checkpoints;
  /// [S, D, kModes]  gradient that dfinal_state sends to the state before the last chunk
  const float2* tail_state;
  const float* tail_input;  // [S, D, kChunk]  and to the last chunk's inputs
  float2* partial;          // [D, groups, 3, kModes]  gradients of c, b̄ and ā
  float* partial_skip;      // [D, groups]
  float4* kept_sums;        // [D, groups, sizeof(ChunkSums) / 16, threads]  float data only
  int sequences;
  int warps_per_sequence;
  unsigned zero;  // set_words
};

/// Warps of a block. More of them share the sums over chunks, which then leave registers for the
/// walk.
template <class T>
inline constexpr int backward_warps = operand_terms<T> == 3 ? 4 : 8;
template <class T>
inline constexpr int backward_threads = 32 * backward_warps<T>;

/// Tiles of a block in shared memory, as [chunks, 64] bf16 rows for the sums over chunks.
enum StoredTile { kInputs, kStates, kOutputs, kAdjoints, kStoredTiles };

template <class T>
struct BackwardShared {
  static constexpr int warps = backward_warps<T>;
  static constexpr int rows = warps * 16 * row_tiles<T>;
  static constexpr int tile = rows * 8;  // uint4
  static constexpr int matrix = operand_terms<T> * kFragmentWords,
                       scan_matrix = matrix_terms<T> * kFragmentWords;
  static constexpr std::size_t matrices = 2 * matrix + 2 * scan_matrix;
  static constexpr std::size_t tiles = std::size_t{kStoredTiles} * operand_terms<T> * tile;
  // Inputs as they lie in memory, for the input gate's gradient: a slot a lane and run.
  static constexpr int pieces = sizeof(T) / 2, raw = 4 * row_tiles<T> * pieces * 32;
  static constexpr std::size_t bytes =
      (matrices + tiles + warps * raw) * 16 + ChannelLayout<T>::table_bytes +
      (2 * warps * kModes + warps / kWarps * 4 * kWarps * 8) * sizeof(float2);
};

/// Sums over chunks of one warp: 16 rows (outputs or adjoint states) by `tiles` tiles of 8 columns
/// each. Warp w has rows 16·(w mod 4), … and tiles (w / 4)·tiles, ….
template <class T>
struct alignas(16) ChunkSums {
  static constexpr int tiles = 8 * kWarps / backward_warps<T>;
  float lower[tiles][4];     // Σ dyᵀ·state
  float toeplitz[tiles][4];  // Σ dyᵀ·u, column tiles up to the diagonal
  float lift[tiles][4];      // Σ adjointᵀ·u
  float row[2][4];           // Σ adjointᵀ·state, diagonal block
};

template <class T>
__device__ inline const uint4* stored_address(const uint4* tiles, int which, int term, int row,
                                              int vector) {
  using S = BackwardShared<T>;
  return tiles + (which * operand_terms<T> + term) * S::tile + row * 8 + stored_vector(row, vector);
}

/// sum += left · tile `h` of right, to the precision of the terms, three of them as in
/// multiply_pair.
template <int Terms>
__device__ inline void add_product(float (&sum)[4], const unsigned (&left)[Terms][4],
                                   const unsigned (&right)[Terms][4], int h) {
  constexpr bool apart = Terms == 3;
  float part[4] = {};
#pragma unroll
  for (int order = Terms - 1; order >= 0; --order)
#pragma unroll
    for (int i = 0; i <= order; ++i)
      multiply_tile(apart ? part : sum, left[i], right[order - i][2 * h],
                    right[order - i][2 * h + 1]);
  if constexpr (apart)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += part[i];
}

/// Adds the products over all chunks in shared memory to this warp's sums.
template <class T>
__device__ inline void add_products(ChunkSums<T>& sums, const uint4* tiles) {
  constexpr int terms = operand_terms<T>, pairs = ChunkSums<T>::tiles / 2;
  const int warp = threadIdx.x / 32 % kWarps, first = threadIdx.x / (32 * kWarps) * pairs,
            lane = threadIdx.x % 32, which = lane / 8, line = lane % 8;
#pragma unroll 1
  for (int k = 0; k < BackwardShared<T>::rows; k += 16) {
    unsigned outputs[terms][4], adjoints[terms][4];
#pragma unroll
    for (int t = 0; t < terms; ++t) {
      const int row = k + line + 8 * (which / 2), vector = 2 * warp + which % 2;
      load_transposed(outputs[t], stored_address<T>(tiles, kOutputs, t, row, vector));
      load_transposed(adjoints[t], stored_address<T>(tiles, kAdjoints, t, row, vector));
    }
#pragma unroll
    for (int i = 0; i < pairs; ++i) {
      const int pair = first + i;
      unsigned inputs[terms][4], states[terms][4];
#pragma unroll
      for (int t = 0; t < terms; ++t) {
        const int row = k + line + 8 * (which % 2), vector = 2 * pair + which / 2;
        load_transposed(inputs[t], stored_address<T>(tiles, kInputs, t, row, vector));
        load_transposed(states[t], stored_address<T>(tiles, kStates, t, row, vector));
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int tile = 2 * i + h;
        add_product<terms>(sums.lower[tile], outputs, states, h);
        add_product<terms>(sums.lift[tile], adjoints, inputs, h);
        if (pair <= warp) add_product<terms>(sums.toeplitz[tile], outputs, inputs, h);
        if (pair == warp) add_product<terms>(sums.row[h], adjoints, states, h);
      }
    }
  }
}

/// Adds the sums to `kept` and clears them. Tensor cores truncate when they accumulate: for float
/// data no more than a tile is summed there.
template <class T>
__device__ inline void flush(ChunkSums<T>& sums, float4* kept) {
  float4* const values = reinterpret_cast<float4*>(&sums);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(ChunkSums<T>) / 16); ++i) {
    float4& to = kept[i * backward_threads<T> + threadIdx.x];
    to = {to.x + values[i].x, to.y + values[i].y, to.z + values[i].z, to.w + values[i].w};
    values[i] = {0.f, 0.f, 0.f, 0.f};
  }
}

inline constexpr int kSumPitch = kChunk + 1;

/// Sums of a block over all its chunks, in shared memory: [kChunk, kSumPitch] each, then the taps'.
struct StoredSums {
  float* lower;     // [position, state]  Σ dyᵀ·state, real and imaginary parts alternate
  float* toeplitz;  // [position, position]  Σ dyᵀ·u
  float* lift;      // [state, position]  Σ adjointᵀ·u
  float* tap;       // [kChunk]
  float* end;

  __device__ explicit StoredSums(float* scratch)
      : lower(scratch),
        toeplitz(lower + kChunk * kSumPitch),
        lift(toeplitz + kChunk * kSumPitch),
        tap(lift + kChunk * kSumPitch),
        end(tap + kChunk) {}
};

/// Turns them into gradients of c, b̄, ā and skip by the chain rule through the powers of ā, by
/// `Parts` warps.
/// group        of `groups` that share the channel
/// power        [kPowers, power_pitch]
/// input        b of the modes, [kModes]
/// output       c of the modes, [kModes]
/// row(mode)    Σ adjoint · conj(state)
/// synchronize  the warps' barrier
template <class T, int Parts, class Row, class Synchronize>
__device__ inline void contract_stored(const StoredSums& sums, int thread,
                                       const BackwardLaunch<T>& launch, int channel, int groups,
                                       int group, const float2* power, int power_pitch,
                                       const float2* input, const float2* output, const Row& row,
                                       const Synchronize& synchronize) {
  constexpr int pitch = kSumPitch;
  const float *lower = sums.lower, *toeplitz = sums.toeplitz, *lift = sums.lift;
  float* const tap = sums.tap;
  float2* const part_sum = reinterpret_cast<float2*>(sums.lower);
  synchronize();
  if (thread < kChunk) {
    float sum = 0.f;
#pragma unroll 16
    for (int i = 0; i < kChunk; ++i)
      if (i + thread < kChunk) sum += toeplitz[(i + thread) * pitch + i];
    tap[thread] = sum;
  }
  synchronize();
  const int mode = thread % kModes, part = thread / kModes;
  const float2 b = input[mode], c = output[mode], bc = multiply(b, c);
  float2 da{0.f, 0.f}, db{0.f, 0.f}, dc{0.f, 0.f};
  const auto scale = [](float s, float2 v) { return float2{s * v.x, s * v.y}; };
  for (int i = part * (kChunk / Parts); i < (part + 1) * (kChunk / Parts); ++i) {
    const int rest = kChunk - 1 - i;
    const float2 here = power[i * power_pitch + mode], next = power[(i + 1) * power_pitch + mode];
    const float2 far = power[rest * power_pitch + mode];
    const float2 dlower{2.f * lower[i * pitch + 2 * mode], -2.f * lower[i * pitch + 2 * mode + 1]};
    dc = multiply_add(dlower, conjugate(next), dc);
    da = multiply_add(dlower, conjugate(scale(i + 1.f, multiply(c, here))), da);
    const float2 dlift{lift[2 * mode * pitch + i], lift[(2 * mode + 1) * pitch + i]};
    db = multiply_add(dlift, conjugate(far), db);
    if (rest > 0)
      da = multiply_add(
          dlift, conjugate(scale(rest, multiply(b, power[(rest - 1) * power_pitch + mode]))), da);
    const float dtap = 2.f * tap[i];
    dc = multiply_add(scale(dtap, conjugate(b)), conjugate(here), dc);
    db = multiply_add(scale(dtap, conjugate(c)), conjugate(here), db);
    if (i > 0)
      da = multiply_add(scale(dtap * i, conjugate(bc)),
                        conjugate(power[(i - 1) * power_pitch + mode]), da);
  }
  if (part == 0) {
    const float2 drow = row(mode);
    da = multiply_add(drow, conjugate(scale(kChunk, power[(kChunk - 1) * power_pitch + mode])), da);
  }
  synchronize();
  part_sum[(part * 3 + 0) * kModes + mode] = dc;
  part_sum[(part * 3 + 1) * kModes + mode] = db;
  part_sum[(part * 3 + 2) * kModes + mode] = da;
  const long long at = static_cast<long long>(channel) * groups + group;
  if (thread == 0) launch.partial_skip[at] = tap[0];
  synchronize();
  if (thread < 3 * kModes) {
    float2 sum{0.f, 0.f};
    for (int p = 0; p < Parts; ++p) {
      const float2 v = part_sum[p * 3 * kModes + thread];
      sum = {sum.x + v.x, sum.y + v.y};
    }
    launch.partial[at * 3 * kModes + thread] = sum;
  }
}

/// The same of what every warp of a block has summed.
template <class T>
__device__ inline void contract(const ChunkSums<T>& sums, float* scratch,
                                const BackwardLaunch<T>& launch) {
  const StoredSums stored(scratch);
  float* const row = stored.end;  // [4][16][17]
  constexpr int tiles = ChunkSums<T>::tiles;
  const int warp = threadIdx.x / 32 % kWarps, first = threadIdx.x / (32 * kWarps) * tiles,
            g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (16 * warp + g + 8 * (i / 2)) * kSumPitch + 8 * (first + tile) + 2 * q + i % 2;
      stored.lower[at] = sums.lower[tile][i];
      stored.toeplitz[at] = sums.toeplitz[tile][i];
      stored.lift[at] = sums.lift[tile][i];
      // The diagonal block lies with the warp that has its columns.
      if (tile < 2 && 2 * warp >= first && 2 * warp < first + tiles)
        row[(warp * 16 + g + 8 * (i / 2)) * 17 + 8 * tile + 2 * q + i % 2] = sums.row[tile][i];
    }
  using Layout = ChannelLayout<T>;
  const char* const base = launch.workspace + blockIdx.x * Layout::bytes;
  const float2* const table = reinterpret_cast<const float2*>(base + Layout::table_at);
  contract_stored<T, backward_warps<T>>(
      stored, threadIdx.x, launch, blockIdx.x, gridDim.y, blockIdx.y,
      reinterpret_cast<const float2*>(base + Layout::powers_at), kModes,
      table + kInput * kTablePitch, table + kOutput * kTablePitch,
      [&](int mode) {
        const float* const block = row + (mode / 8) * 16 * 17;
        const int at = 2 * (mode % 8);
        return float2{block[at * 17 + at] + block[(at + 1) * 17 + at + 1],
                      block[(at + 1) * 17 + at] - block[at * 17 + at + 1]};
      },
      [] { __syncthreads(); });
}

}  // namespace ssm::cuda::device
