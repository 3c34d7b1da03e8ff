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
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float now = largest[m][i];
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
          now = fmaxf(now, fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
        now = row_max(now);
        const float base = now == -INFINITY ? 0.0f : now * scale;
        rescale[m][i] = power_of_two(largest[m][i] * scale - base);
        largest[m][i] = now;
        total[m][i] *= rescale[m][i];
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
  template <int Columns>
  __device__ void rescale_sums(float (&sums)[M][Columns][4]) const {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < Columns; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][n][i] *= rescale[m][i / 2];
  }

  float largest[M][2], total[M][2], rescale[M][2];

 private:
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

}  // namespace ssm::cuda::device
