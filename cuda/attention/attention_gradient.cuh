// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/warpgroup_tile.cuh"
#include "ssm/backend/cuda/tiled_attention.hpp"

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
        query_numbers(workspace),
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

  /// The first number of query t of a sequence and head; the second is two further.
  __device__ float* numbers(const Sequence& sequence, Index h, Index t) const {
    constexpr Index each = AttentionDqTiles::queries;
    const Index tile = query_tiles.first_tile(sequence, h, each) + t / each;
    return query_numbers + 2 * each * tile + t % each / 2 * 4 + t % 2;
  }

  Operand<const T, 4> q, k, v, y, dy;
  Operand<const float, 3> log_sum;
  Operand<T, 4> dq, dk, dv;
  // By tiles of queries, of two each: log_sum to base 2 of both, then dy·y of both; 0 behind the
  // last query of a sequence.
  float* query_numbers;
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
