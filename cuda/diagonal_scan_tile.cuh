// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "diagonal_scan_layout.cuh"

namespace ssm::cuda::device {

/// A warp's tile as the left operand of a product: [terms][16-row tiles][steps][registers].
template <int Terms, int Rows>
struct Operand {
  unsigned pair[Terms][Rows][4][4];
};
template <class T>
using OperandOf = Operand<operand_terms<T>, row_tiles<T>>;

/// Starts a block's copy of `bytes` bytes to shared memory; complete after wait_for_copies and a barrier.
__device__ inline void stage(uint4* to, const void* from, int bytes) {
  for (int i = threadIdx.x; i < bytes / 16; i += blockDim.x)
    copy_async(to + i, static_cast<const uint4*>(from) + i);
}

/// One 64 × 64 matrix packed as right operands: its first term, and the further ones if any.
struct Packed {
  const uint4* first;
  const uint4* rest;
};

/// sum += a[step] · matrix[step, two neighbouring output tiles], to the precision of the terms.
template <int MatrixTerms, int Terms, int Rows>
__device__ inline void multiply_pair(float (*sum)[4], int stride, const Operand<Terms, Rows>& a,
                                     int step, int pair, Packed matrix) {
  constexpr int precision = MatrixTerms > Terms ? MatrixTerms : Terms;
  const int index = (pair * 4 + step) * 32 + threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < MatrixTerms; ++j) {
    const uint4 b = j == 0 ? matrix.first[index] : matrix.rest[(j - 1) * kFragmentWords + index];
#pragma unroll
    for (int i = 0; i < Terms; ++i)
#pragma unroll
      for (int m = 0; m < Rows; ++m)
        if (i + j < precision) {
          multiply_tile(sum[m * stride], a.pair[i][m][step], b.x, b.y);
          multiply_tile(sum[m * stride + 1], a.pair[i][m][step], b.z, b.w);
        }
  }
}

/// The eight positions of row (m, half), run `v`, as floats.
template <int Terms, int Rows>
__device__ inline void get_run(const Operand<Terms, Rows>& a, int m, int half, int v,
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

/// The 16-byte runs of a lane as they lie in memory, to its part of the operand. `zero` is zero, unknown to the
/// compiler: without an instruction that defines them anew, the words stay in the registers of the load and every
/// product copies its four operands together first (640 moves a tile).
template <class T>
__device__ inline void set_words(OperandOf<T>& a, int r, int v, uint4 raw, unsigned zero) {
  a.pair[0][r / 2][2 * v][r % 2] = raw.x ^ zero;
  a.pair[0][r / 2][2 * v][r % 2 + 2] = raw.y ^ zero;
  a.pair[0][r / 2][2 * v + 1][r % 2] = raw.z ^ zero;
  a.pair[0][r / 2][2 * v + 1][r % 2 + 2] = raw.w ^ zero;
}

/// Eight floats as run `v` of row `r`.
template <int Terms, int Rows>
__device__ inline void set_run(Operand<Terms, Rows>& a, int r, int v, const float (&x)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    unsigned pairs[Terms];
    split_bf16(x[2 * j], x[2 * j + 1], pairs);
#pragma unroll
    for (int t = 0; t < Terms; ++t)
      a.pair[t][r / 2][2 * v + (j >> 1)][r % 2 + 2 * (j & 1)] = pairs[t];
  }
}

/// Run `v` of every row of a lane as it lies in memory; all loads are under way before the first is used.
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

/// Reads gate · x (gate may be null) as an operand; `left` positions remain from the tile's start. `full`: the whole
/// tile is there and 16-byte aligned. `keep(r, v, term, words)` sees each run of a row as it lies in memory.
template <class T, bool Gated, class Keep>
__device__ inline void load_tile(OperandOf<T>& a, const T* x, const T* gate, int left, bool full,
                                 unsigned zero, const Keep& keep) {
  constexpr int rows = row_tiles<T>, terms = operand_terms<T>;
  Runs<T> run[2];
#pragma unroll
  for (int v = 0; v < 2; ++v) run[v].load(x, v, left, full);
  if constexpr (terms == 1) {
    if (!Gated || gate == nullptr) {
#pragma unroll
      for (int r = 0; r < 2 * rows; ++r)
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          keep(r, v, 0, run[v].raw[r][0]);
          set_words<T>(a, r, v, run[v].raw[r][0], zero);
        }
      return;
    }
  }
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    Runs<T> factor;
    if (Gated && gate != nullptr) factor.load(gate, v, left, full);
#pragma unroll
    for (int r = 0; r < 2 * rows; ++r) {
      float value[8];
      widen<T>(run[v].raw[r], value);
      if (Gated && gate != nullptr) factor.multiply_into(value, r);
      unsigned words[4][terms];
#pragma unroll
      for (int j = 0; j < 4; ++j) split_bf16(value[2 * j], value[2 * j + 1], words[j]);
#pragma unroll
      for (int t = 0; t < terms; ++t) {
        keep(r, v, t, uint4{words[0][t], words[1][t], words[2][t], words[3][t]});
#pragma unroll
        for (int j = 0; j < 4; ++j)
          a.pair[t][r / 2][2 * v + (j >> 1)][r % 2 + 2 * (j & 1)] = words[j][t] ^ zero;
      }
    }
  }
}

/// What the scan over chunks needs besides the chunks' own contributions.
struct Chain {
  float2* carry;        // [kModes]  of this warp: state at the near edge of its tile
  float2* totals;       // [4][kWarps][8]  what a tile adds, one slot a pair of output tiles
  const float2* table;  // [kTableRows, kTablePitch]
  int warps;            // neighbouring warps that share a sequence; 1 unless Chained
  int rank;             // of this warp among them, in the direction of the walk
};

__device__ inline float2 shift_lanes(float2 v, int delta, bool down) {
  return down ? float2{__shfl_down_sync(~0u, v.x, delta), __shfl_down_sync(~0u, v.y, delta)}
              : float2{__shfl_up_sync(~0u, v.x, delta), __shfl_up_sync(~0u, v.y, delta)};
}

/// Scans the rows of two output tiles over the chunks of the warp's tile, and of its neighbours:
///   forward  state_{j+1} = a^64 · state_j + v_j           reverse  state_j = conj(a^64) · state_{j+1} + v_j
/// v    [2][R]  contributions of this lane's rows, one mode each
/// out  [2][R]  the state each row starts from (forward: before it; reverse: after it)
/// The carry moves on by one tile (by `warps` tiles).
template <bool Reverse, bool Chained, int R>
__device__ inline void scan_rows(const float2 (&v)[2][R], float2 (&out)[2][R], const Chain& chain,
                                 int pair) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int order = Reverse ? 7 - g : g;
  const auto power = [&](int row, int mode) {
    const float2 a = chain.table[row * kTablePitch + mode];
    return Reverse ? conjugate(a) : a;
  };
  float2 before[2], total[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int mode = 8 * pair + 4 * h + q;
    const float2 row = power(kRow, mode);
    float2 sum = v[h][Reverse ? R - 1 : 0];
#pragma unroll
    for (int r = 1; r < R; ++r) sum = multiply_add(row, sum, v[h][Reverse ? R - 1 - r : r]);
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const float2 other = shift_lanes(sum, 4 << k, Reverse);
      const float2 next = multiply_add(power(kGroup + k, mode), other, sum);
      if (order >= (1 << k)) sum = next;
    }
    before[h] = shift_lanes(sum, 4, Reverse);
    if (order == 0) before[h] = {0.f, 0.f};
    total[h] = sum;  // of the whole tile in the lanes of the last group
  }
  if constexpr (Chained) {
    float2* const slot = chain.totals + pair * kWarps * 8;
    if (order == 7) {
      slot[chain.rank * 8 + q] = total[0];
      slot[chain.rank * 8 + 4 + q] = total[1];
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int mode = 8 * pair + 4 * h + q;
    const float2 tile = power(kTile, mode), row = power(kRow, mode);
    float2 carry = chain.carry[mode], next;
    if constexpr (Chained) {
      const float2* const slot = chain.totals + pair * kWarps * 8 + 4 * h + q;
      next = carry;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if (w >= chain.warps) break;
        if (w == chain.rank) carry = next;
        next = multiply_add(tile, next, slot[w * 8]);
      }
    } else {
      next = multiply_add(tile, carry, total[h]);
    }
    __syncwarp();
    if (order == 7) chain.carry[mode] = next;
    float2 state = multiply_add(power(kPrefix + order, mode), carry, before[h]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      out[h][Reverse ? R - 1 - r : r] = state;
      if (r + 1 < R) state = multiply_add(row, state, v[h][Reverse ? R - 1 - r : r]);
    }
  }
}

}  // namespace ssm::cuda::device
