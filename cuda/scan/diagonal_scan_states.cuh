// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

/// What the scan over chunks needs besides the chunks' own contributions.
struct Chain {
  float2* carry;        // [kModes]  of this warp: state at the near edge of its tile
  float2* totals;       // [4][kWarps][8]  what a tile adds, one slot a pair of output tiles
  const float2* table;  // [kTableRows, kTablePitch]
  int warps;            // neighboring warps that share a sequence; 1 unless Chained
  int rank;             // of this warp among them, in the direction of the walk
};

__device__ inline float2 shift_lanes(float2 v, int delta, bool down) {
  return down ? float2{__shfl_down_sync(~0u, v.x, delta), __shfl_down_sync(~0u, v.y, delta)}
              : float2{__shfl_up_sync(~0u, v.x, delta), __shfl_up_sync(~0u, v.y, delta)};
}

/// Scans the rows of two output tiles, the first of them `first`, over the chunks of the warp's
/// tile, and of its neighbors:
///   forward  state_{j+1} = a^64 · state_j + v_j
///   reverse  state_j = conj(a^64) · state_{j+1} + v_j
/// v    [2][R]  contributions of this lane's rows, one mode each
/// out  [2][R]  the state each row starts from (forward: before it; reverse: after it)
/// The carry moves on by one tile (by `warps` tiles). Stores come last, so that both scans overlap.
template <bool Reverse, bool Chained, int R>
__device__ inline void scan_rows(const float2 (&v)[2][R], float2 (&out)[2][R], const Chain& chain,
                                 int first) {
  constexpr int H = 2;
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int order = Reverse ? 7 - g : g;
  const float2* const table = chain.table + 4 * first + q;
  const auto power = [&](int row, int h) {
    const float2 a = table[row * kTablePitch + 4 * h];
    return Reverse ? conjugate(a) : a;
  };
  const auto slot = [&](int h) {
    const int tile = first + h;
    return chain.totals + (tile / 2) * kWarps * 8 + 4 * (tile % 2) + q;
  };
  int step_row[3];  // a lane with nothing to add multiplies by zero
#pragma unroll
  for (int k = 0; k < 3; ++k) step_row[k] = order >= (1 << k) ? kGroup + k : kZero;
  float2 before[H], total[H], next[H];
#pragma unroll
  for (int h = 0; h < H; ++h) {
    const float2 row = power(kRow, h);
    float2 sum = v[h][Reverse ? R - 1 : 0];
#pragma unroll
    for (int r = 1; r < R; ++r) sum = multiply_add(row, sum, v[h][Reverse ? R - 1 - r : r]);
    total[h] = sum;
  }
#pragma unroll
  for (int k = 0; k < 3; ++k)
#pragma unroll
    for (int h = 0; h < H; ++h)
      total[h] =
          multiply_add(power(step_row[k], h), shift_lanes(total[h], 4 << k, Reverse),
                       total[h]);  // in the end of the whole tile in the lanes of the last group
#pragma unroll
  for (int h = 0; h < H; ++h) {
    before[h] = shift_lanes(total[h], 4, Reverse);
    if (order == 0) before[h] = {0.f, 0.f};
  }
  if constexpr (Chained) {
    if (order == 7)
#pragma unroll
      for (int h = 0; h < H; ++h) slot(h)[chain.rank * 8] = total[h];
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < H; ++h) {
    const float2 tile = power(kTile, h), row = power(kRow, h);
    float2 carry = chain.carry[4 * (first + h) + q];
    if constexpr (Chained) {
      next[h] = carry;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if (w >= chain.warps) break;
        if (w == chain.rank) carry = next[h];
        next[h] = multiply_add(tile, next[h], slot(h)[w * 8]);
      }
    } else {
      next[h] = multiply_add(tile, carry, total[h]);
    }
    float2 state = multiply_add(power(kPrefix + order, h), carry, before[h]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      out[h][Reverse ? R - 1 - r : r] = state;
      if (r + 1 < R) state = multiply_add(row, state, v[h][Reverse ? R - 1 - r : r]);
    }
  }
  __syncwarp();
  if (order == 7)
#pragma unroll
    for (int h = 0; h < H; ++h) chain.carry[4 * (first + h) + q] = next[h];
}

/// Multiplies a tile by `matrix`, scans what it adds to the states over the chunks, and hands each
/// row the state it starts from, two output tiles at a time.
/// add(tile, row, v)        may add to a row's contribution
/// keep(tile, state)        sees the states of an output tile, [R]
/// Unrolled (4) `tile` is a constant; rolled up (1) the code is smaller and needs fewer registers.
template <class T, bool Reverse, bool Chained, int Unroll, class Add, class Keep>
__device__ inline void pass_states(const LeftFragmentsOf<T>& a, Packed matrix, const Chain& chain,
                                   const Add& add, const Keep& keep) {
  constexpr int rows = row_tiles<T>, R = 2 * rows;
#pragma unroll Unroll
  for (int first = 0; first < 8; first += 2) {
    float sum[rows][2][4] = {};
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_pair<matrix_terms<T>>(sum[0], 2, a, step, first / 2, matrix);
    float2 added[2][R], state[2][R];
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int r = 0; r < R; ++r) {
        added[h][r] = {sum[r / 2][h][2 * (r % 2)], sum[r / 2][h][2 * (r % 2) + 1]};
        add(first + h, r, added[h][r]);
      }
    scan_rows<Reverse, Chained>(added, state, chain, first);
#pragma unroll
    for (int h = 0; h < 2; ++h) keep(first + h, state[h]);
  }
}

}  // namespace ssm::cuda::device
