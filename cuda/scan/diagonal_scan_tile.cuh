// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_layout.cuh"

namespace ssm::cuda::device {

/// A warp's tile as the left operand of a product: [terms][16-row tiles][steps][registers].
template <int Terms, int Rows>
struct LeftFragments {
  unsigned pair[Terms][Rows][4][4];
};
template <class T>
using LeftFragmentsOf = LeftFragments<operand_terms<T>, row_tiles<T>>;

/// Starts a block's copy of `bytes` bytes to shared memory; complete after wait_for_copies and a
/// barrier.
__device__ inline void stage(uint4* to, const void* from, int bytes) {
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x)
    copy_async(to + i, static_cast<const uint4*>(from) + i);
}

/// One 64 × 64 matrix packed as right operands: its first term, and the further ones if any.
struct Packed {
  const uint4* first;
  const uint4* rest;
};

/// sum += a[step] · matrix[step, two neighboring output tiles], to the precision of the terms.
/// Tensor cores truncate when they accumulate: of three terms a step's products, the small ones
/// first, have a sum of their own, which is then added as floats are.
template <int MatrixTerms, int Terms, int Rows>
__device__ inline void multiply_pair(float (*sum)[4], int stride,
                                     const LeftFragments<Terms, Rows>& a, int step, int pair,
                                     Packed matrix) {
  constexpr int precision = MatrixTerms > Terms ? MatrixTerms : Terms;
  constexpr bool apart = precision == 3;
  const int index = (pair * 4 + step) * 32 + threadIdx.x % 32;
  float part[Rows][2][4] = {};
#pragma unroll
  for (int k = 0; k < MatrixTerms; ++k) {
    const int j = apart ? MatrixTerms - 1 - k : k;
    const uint4 b = j == 0 ? matrix.first[index] : matrix.rest[(j - 1) * kFragmentWords + index];
#pragma unroll
    for (int n = 0; n < Terms; ++n) {
      const int i = apart ? Terms - 1 - n : n;
#pragma unroll
      for (int m = 0; m < Rows; ++m)
        if (i + j < precision) {
          multiply_tile(apart ? part[m][0] : sum[m * stride], a.pair[i][m][step], b.x, b.y);
          multiply_tile(apart ? part[m][1] : sum[m * stride + 1], a.pair[i][m][step], b.z, b.w);
        }
    }
  }
  if constexpr (apart)
#pragma unroll
    for (int m = 0; m < Rows; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m * stride + h][i] += part[m][h][i];
}

/// The eight positions of row (m, half), run `v`, as floats.
template <int Terms, int Rows>
__device__ inline void get_run(const LeftFragments<Terms, Rows>& a, int m, int half, int v,
                               float (&x)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    x[2 * j] = x[2 * j + 1] = 0.f;
#pragma unroll
    for (int t = Terms - 1; t >= 0; --t) {
      const unsigned pair = a.pair[t][m][2 * v + (j >> 1)][half + 2 * (j & 1)];
      x[2 * j] += low_of(pair);
      x[2 * j + 1] += high_of(pair);
    }
  }
}

/// Position of run `v` of row `r` of this lane, in its tile.
template <int Rows>
__device__ inline int run_position(int r, int v) {
  const int lane = threadIdx.x % 32;
  return ((lane / 4) * 2 * Rows + r) * kChunk + 32 * v + 8 * (lane % 4);
}

/// The states of output tile `tile`, one mode of every row of a lane, as the operand of the next
/// product.
template <int Terms, int Rows>
__device__ inline void set_states(LeftFragments<Terms, Rows>& a, int tile,
                                  const float2 (&v)[2 * Rows]) {
#pragma unroll
  for (int r = 0; r < 2 * Rows; ++r) {
    unsigned pairs[Terms];
    split_bf16(v[r].x, v[r].y, pairs);
#pragma unroll
    for (int t = 0; t < Terms; ++t) a.pair[t][r / 2][tile / 2][r % 2 + 2 * (tile % 2)] = pairs[t];
  }
}

/// The same in shared memory, a warp's tile [chunks, 64] of bf16 rows; further terms lie `stride`
/// further on.
template <class T>
__device__ inline void store_states(uint4* tile, int stride, int state_tile,
                                    const float2 (&v)[2 * row_tiles<T>]) {
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2 * row_tiles<T>; ++r) {
    const int row = stored_row(g, r);
    unsigned pairs[operand_terms<T>];
    split_bf16(v[r].x, v[r].y, pairs);
#pragma unroll
    for (int t = 0; t < operand_terms<T>; ++t)
      reinterpret_cast<unsigned*>(tile + t * stride + row * 8 + stored_vector(row, state_tile))[q] =
          pairs[t];
  }
}

/// What the warp has stored there, as an operand. Reads what other lanes have written.
template <class T>
__device__ inline void load_states(LeftFragmentsOf<T>& a, const uint4* tile, int stride) {
  const int which = threadIdx.x % 32 / 8, line = threadIdx.x % 8;
#pragma unroll
  for (int t = 0; t < operand_terms<T>; ++t)
#pragma unroll
    for (int m = 0; m < row_tiles<T>; ++m)
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const int row = stored_row(line, 2 * m + which % 2);
        load_tiles(a.pair[t][m][step],
                   tile + t * stride + row * 8 + stored_vector(row, 2 * step + which / 2));
      }
}

/// The 16-byte runs of a lane as they lie in memory, to its part of the operand. `zero` is zero,
/// unknown to the compiler: without an instruction that defines them anew, the words stay in the
/// registers of the load and every product copies its four operands together first (640 moves a
/// tile).
template <class T>
__device__ inline void set_words(LeftFragmentsOf<T>& a, int r, int v, uint4 raw, unsigned zero) {
  a.pair[0][r / 2][2 * v][r % 2] = raw.x ^ zero;
  a.pair[0][r / 2][2 * v][r % 2 + 2] = raw.y ^ zero;
  a.pair[0][r / 2][2 * v + 1][r % 2] = raw.z ^ zero;
  a.pair[0][r / 2][2 * v + 1][r % 2 + 2] = raw.w ^ zero;
}

/// Run `v` of row `r` of an operand of one term, as set_words had it.
template <int Rows>
__device__ inline uint4 get_words(const LeftFragments<1, Rows>& a, int r, int v) {
  const auto& low = a.pair[0][r / 2][2 * v];
  const auto& high = a.pair[0][r / 2][2 * v + 1];
  return {low[r % 2], low[r % 2 + 2], high[r % 2], high[r % 2 + 2]};
}

/// Eight floats as run `v` of row `r`.
template <int Terms, int Rows>
__device__ inline void set_run(LeftFragments<Terms, Rows>& a, int r, int v, const float (&x)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    unsigned pairs[Terms];
    split_bf16(x[2 * j], x[2 * j + 1], pairs);
#pragma unroll
    for (int t = 0; t < Terms; ++t)
      a.pair[t][r / 2][2 * v + (j >> 1)][r % 2 + 2 * (j & 1)] = pairs[t];
  }
}

/// Run `v` of every row of a lane as it lies in memory; all loads are under way before the first is
/// used.
template <class T>
struct Runs {
  uint4 raw[2 * row_tiles<T>][sizeof(T) / 2];

  __device__ void load(const T* p, int v, int left, bool full) {
    if (full) {
#pragma unroll
      for (int r = 0; r < 2 * row_tiles<T>; ++r)
#pragma unroll
        for (int k = 0; k < static_cast<int>(sizeof(T) / 2); ++k)
          raw[r][k] =
              __ldg(reinterpret_cast<const uint4*>(p + run_position<row_tiles<T>>(r, v)) + k);
    } else {
#pragma unroll
      for (int r = 0; r < 2 * row_tiles<T>; ++r) {
        const int position = run_position<row_tiles<T>>(r, v);
        load_guarded(p + position, left - position, raw[r]);
      }
    }
  }
  /// to ⊙= row r
  __device__ void multiply_into(float (&to)[8], int r) const {
    float factor[8];
    widen<T>(raw[r], factor);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] *= factor[i];
  }
};

/// Run `v` of a tile of x, if `gated` times one of a gate, as an operand. `keep(r, v, term, words)`
/// sees each run of a row as it will lie in memory.
template <class T, class Keep>
__device__ inline void set_runs(LeftFragmentsOf<T>& a, int v, const Runs<T>& x, const Runs<T>& gate,
                                bool gated, unsigned zero, const Keep& keep) {
  constexpr int terms = operand_terms<T>;
#pragma unroll
  for (int r = 0; r < 2 * row_tiles<T>; ++r) {
    if constexpr (terms == 1) {
      const uint4 words = gated ? multiply_words(x.raw[r][0], gate.raw[r][0]) : x.raw[r][0];
      keep(r, v, 0, words);
      set_words<T>(a, r, v, words, zero);
    } else {
      float value[8];
      widen<T>(x.raw[r], value);
      if (gated) gate.multiply_into(value, r);
      unsigned words[4][terms];
#pragma unroll
      for (int j = 0; j < 4; ++j) split_bf16(value[2 * j], value[2 * j + 1], words[j]);
#pragma unroll
      for (int t = 0; t < terms; ++t) {
        keep(r, v, t, uint4{words[0][t], words[1][t], words[2][t], words[3][t]});
#pragma unroll
        for (int j = 0; j < 4; ++j)
          a.pair[t][r / 2][2 * v + (j >> 1)][r % 2 + 2 * (j & 1)] = words[j][t];
      }
    }
  }
}

/// Reads gate · x (gate may be null) as an operand; `left` positions remain from the tile's start.
/// `full`: the whole tile is there and 16-byte aligned.
template <class T, bool Gated>
__device__ inline void load_tile(LeftFragmentsOf<T>& a, const T* x, const T* gate, int left,
                                 bool full, unsigned zero) {
  const auto ignore = [](int, int, int, uint4) {};
  Runs<T> run[2];
#pragma unroll
  for (int v = 0; v < 2; ++v) run[v].load(x, v, left, full);
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    Runs<T> factor;
    const bool gated = Gated && gate != nullptr;
    if (gated) factor.load(gate, v, left, full);
    set_runs<T>(a, v, run[v], factor, gated, zero, ignore);
  }
}

/// Columns of half `v` of a · left + b · right, matrices of `Terms` terms. The triangular ones have
/// nothing in the halves that the comparisons leave out: `Left`, `Right` is −1 where inner
/// positions are at most the outer ones' half, 1 where they are at least that, 0 for a full matrix.
template <int Terms, int Left, int Right, int OperandTerms, int Rows>
__device__ inline void multiply_half(float (&sum)[Rows][4][4], int v,
                                     const LeftFragments<OperandTerms, Rows>& a, Packed left,
                                     const LeftFragments<OperandTerms, Rows>& b, Packed right) {
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int side = step / 2 - v;
      if (Left * side >= 0) multiply_pair<Terms>(&sum[0][2 * pair], 4, a, step, 2 * v + pair, left);
      if (Right * side >= 0)
        multiply_pair<Terms>(&sum[0][2 * pair], 4, b, step, 2 * v + pair, right);
    }
}

}  // namespace ssm::cuda::device
