// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/warpgroup_tile.cuh"

namespace ssm::cuda::device {

template <class T>
struct ForwardOperands {
  ForwardOperands(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                  const std::int64_t* cached)
      : q(operand(a.q)),
        k(operand(a.k)),
        v(operand(a.v)),
        y(operand(a.y)),
        log_sum(operand(a.log_sum)),
        sequences(a, segments, cached),
        tiles(sequences, a.q.extent(1), segments.offsets != nullptr, true, a.q.extent(2)),
        positions(a.k.extent(1)),
        width(static_cast<int>(a.q.extent(3))),
        scale(static_cast<float>(a.scale)) {}

  Operand<const T, 4> q, k, v;
  Operand<T, 4> y;
  Operand<float, 3> log_sum;
  AttentionSequences sequences;
  AttentionTiles tiles;
  Index positions;  // of k
  int width;
  float scale;
  int part_keys = 0;        // of each part of the keys; 0: there is one part
  float* part_y = nullptr;  // [parts, B·L·H, K]
  float* part_log_sum =
      nullptr;  // [parts, B·L·H], to base 2; −∞ of a part that a query does not see
};

/// The online softmax of a warp's queries.
template <int M, int N>
struct OnlineSoftmax {
  /// The keys that the warp's first query sees, counted from the tile's, and those that there are.
  struct Seen {
    int by_first;
    int end;
  };
  __device__ OnlineSoftmax() {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) largest[m][i] = -INFINITY, total[m][i] = 0;
  }

  /// Scores become weights; what was summed before is to be multiplied by `rescale`.
  __device__ void add(float (&scores)[M][N / 8][4], float scale, Seen seen) {
    if (seen.by_first < N || seen.end < N) hide(scores, seen);
    weigh<false, true>(scores, scale);
  }
  /// The same, but only where a query's largest score rises by more than a factor of 2^8 does what
  /// weights are counted from: else what the warp has summed stays as it is.
  __device__ void add_lazily(float (&scores)[M][N / 8][4], float scale, Seen seen) {
    if (seen.by_first < N || seen.end < N) hide(scores, seen);
    weigh<true, true>(scores, scale);
  }
  /// The same where all queries see all keys.
  __device__ void add_lazily(float (&scores)[M][N / 8][4], float scale) {
    weigh<true, false>(scores, scale);
  }
  template <int Columns>
  __device__ void rescale_sums(float (&sums)[M][Columns][4]) const {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < Columns; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][n][i] *= rescale[m][i / 2];
  }

  /// `largest` is what weights are counted from.
  float largest[M][2], total[M][2], rescale[M][2];
  bool rises = true;  // what weights are counted from, of any query of the warp

 private:
  template <bool Lazy, bool HasHidden>
  __device__ void weigh(float (&scores)[M][N / 8][4], float scale) {
    float now[M][2];
    bool any = false;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        now[m][i] = largest[m][i];
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
          now[m][i] = fmaxf(now[m][i], fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
        now[m][i] = row_max(now[m][i]);
        any = any || (now[m][i] - largest[m][i]) * scale > 8;
      }
    if constexpr (Lazy) rises = __any_sync(0xffffffffu, any);
    if (rises) {
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float base = HasHidden && now[m][i] == -INFINITY ? 0.0f : now[m][i] * scale;
          rescale[m][i] = power_of_two(largest[m][i] * scale - base);
          largest[m][i] = now[m][i];
          total[m][i] *= rescale[m][i];
        }
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float base = HasHidden && largest[m][i] == -INFINITY ? 0.0f : largest[m][i] * scale;
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float& weight = scores[m][n][2 * i + j];
            weight = power_of_two(weight * scale - base);
            total[m][i] += weight;
          }
      }
  }
  __device__ static void hide(float (&scores)[M][N / 8][4], Seen seen) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int by_own = seen.by_first + 16 * m + 8 * i + lane / 4;
        const int limit = by_own < seen.end ? by_own : seen.end;
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j)
            if (8 * n + lane % 4 * 2 + j >= limit) scores[m][n][2 * i + j] = -INFINITY;
      }
  }
};

/// What the sums of the two rows of a lane are multiplied by, of a tile of which the warp has the
/// queries from `own` on; and their log_sum, where it is wanted.
/// t0   the tile's first position
template <class T, int N>
__device__ void finish_softmax(const ForwardOperands<T>& a, const OnlineSoftmax<1, N>& softmax,
                               const AttentionRows& rows, Index t0, int own, float scale,
                               float (&factor)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = row_sum(softmax.total[0][i]);
    factor[i] = sum == 0 ? 0 : 1 / sum;
    const int t = own + 8 * i + lane / 4;
    if (a.log_sum && lane % 4 == 0 && t < rows.count)
      a.log_sum(rows.sequence.batch, t0 + t, rows.head) =
          sum == 0 ? -INFINITY : (softmax.largest[0][i] * scale + __log2f(sum)) * kLn2;
  }
}

}  // namespace ssm::cuda::device
