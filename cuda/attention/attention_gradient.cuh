// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/warpgroup_tile.cuh"

namespace ssm::cuda::device {

// With s the scores of queries and keys, p = exp(s − log_sum) and a_t = dy_t·y_t:
//   ds = p ⊙ (dy·vᵀ − a),  dq = scale·ds·k,  dk = scale·dsᵀ·q,  dv = pᵀ·dy

template <class T>
struct GradientOperands {
  GradientOperands(const ssm::AttentionBackward<T, CudaSpace>& g, DeviceSegments segments,
                   const std::int64_t* cached, float* workspace)
      : q(operand(g.forward.q)),
        k(operand(g.forward.k)),
        v(operand(g.forward.v)),
        y(operand(g.y)),
        dy(operand(g.dy)),
        log_sum(operand(g.log_sum)),
        dq(operand(g.dq)),
        dk(operand(g.dk)),
        dv(operand(g.dv)),
        query_numbers(reinterpret_cast<float2*>(workspace)),
        sequences(g.forward, segments, cached),
        query_tiles(sequences, g.forward.q.extent(1), segments.offsets != nullptr, true,
                    g.forward.q.extent(2)),
        key_tiles(sequences, g.forward.k.extent(1),
                  segments.offsets != nullptr && cached == nullptr, false, g.forward.q.extent(2)),
        positions(g.forward.k.extent(1)),
        width(static_cast<int>(g.forward.q.extent(3))),
        scale(static_cast<float>(g.forward.scale)) {}
  /// Of tiles of so many floats, which begin at `memory`.
  void use_dq_parts(float* memory, Index tile_queries, Index tile_floats) {
    turn_count = query_tiles.count(tile_queries);
    dq_parts = memory;
    turns = reinterpret_cast<int*>(memory + tile_floats * turn_count);
  }

  /// Of the queries of a head, from t on.
  __device__ float2* numbers(Index b, Index h, Index t) const {
    return query_numbers + (b * query_tiles.heads + h) * sequences.packing.length + t;
  }

  Operand<const T, 4> q, k, v, y, dy;
  Operand<const float, 3> log_sum;
  Operand<T, 4> dq, dk, dv;
  float2* query_numbers;  // [B, H, L]  log_sum to base 2, and dy·y
  // Where tiles of keys add to dq: dq / scale by tiles of queries, in an order of its own, and how
  // many have added to each.
  float* dq_parts = nullptr;
  int* turns = nullptr;
  Index turn_count = 0;
  AttentionSequences sequences;
  AttentionTiles query_tiles, key_tiles;
  Index positions;  // of k
  int width;
  float scale;
};

}  // namespace ssm::cuda::device
