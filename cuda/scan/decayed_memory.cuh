// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernel/chunks.cuh"
#include "kernel/unroll.cuh"
#include "ssm/backend/cuda/decayed_chunks.hpp"

namespace ssm::cuda::device {

constexpr int kDecayedBlock = 4;  // a thread computes 4 × 4 numbers of a matrix

SSM_HOST_DEVICE constexpr Index decayed_blocks(Index n) {
  return (n + kDecayedBlock - 1) / kDecayedBlock;
}

/// sum += left ⊗ right
template <class T>
SSM_DEVICE void add_outer_product(const T (&left)[kDecayedBlock], const T (&right)[kDecayedBlock],
                                  T (&sum)[kDecayedBlock][kDecayedBlock]) {
  SSM_UNROLL
  for (int r = 0; r < kDecayedBlock; ++r) {
    SSM_UNROLL
    for (int s = 0; s < kDecayedBlock; ++s) sum[r][s] += left[r] * right[s];
  }
}

/// What all passes over a memory that fades read; `scale` is of v, null for 1.
template <class T>
struct DecayedMemory {
  DecayedMemory(const DecayedSizes& sizes, DeviceSegments segments, double* sums, T* workspace)
      : chunking(segments, sizes.batch, sizes.length, sizes.chunks),
        length(sizes.length),
        heads(sizes.heads),
        groups(sizes.groups),
        keys(sizes.keys),
        values(sizes.values),
        log_decay_sums(sums),
        from_begin(workspace),
        to_end(from_begin + sizes.rows()),
        scale(to_end + sizes.rows()),
        weights(scale + sizes.rows()),
        states(weights + sizes.rows() * sizes.chunks.length),
        adjoints(states + sizes.chunks.places * sizes.state()),
        pairs(adjoints + sizes.chunks.places * sizes.state()),
        rest(pairs + sizes.batch * sizes.length * sizes.groups * sizes.chunks.length) {}

  SSM_DEVICE Index row(Index b, Index t, Index h) const { return (b * length + t) * heads + h; }
  SSM_DEVICE Index state(Index place, Index h, Index c, Index j) const {
    return ((place * heads + h) * keys + c) * values + j;
  }
  SSM_DEVICE Index group_of(Index h) const { return h / (heads / groups); }
  SSM_DEVICE T value(Index b, Index t, Index h, Index j) const {
    return scales ? scale[row(b, t, h)] * v(b, t, h, j) : v(b, t, h, j);
  }
  /// e^{l_{m+1} + … + l_t}
  SSM_DEVICE T fade(Index b, Index t, Index m, Index h) const {
    return std::exp(static_cast<T>(log_decay_sums[row(b, t, h)] - log_decay_sums[row(b, m, h)]));
  }
  /// e^{sum of a chunk's l}
  SSM_DEVICE T fade_over(const Chunk& chunk, Index h) const {
    return chunk.end > chunk.begin ? from_begin[row(chunk.s.batch, chunk.end - 1, h)] : T{1};
  }
  /// The product of query t and key m where it counts, faded.
  SSM_DEVICE T& weight(Index b, Index t, Index h, Index m, const Chunk& chunk) const {
    return weights[row(b, t, h) * chunking.length + m - chunk.begin];
  }
  SSM_DEVICE T& pair(Index b, Index t, Index g, Index m, const Chunk& chunk) const {
    return pairs[((b * length + t) * groups + g) * chunking.length + m - chunk.begin];
  }

  Operand<const T, 4> q{}, k{}, v{};
  Chunking chunking;
  Index length;
  Index heads;
  Index groups;
  Index keys;
  Index values;
  bool scales = false;
  double* log_decay_sums;  // [B, L, H]   of l, from the chunk's first position to t
  T* from_begin;           // [B, L, H]   e^{l_begin + … + l_t}
  T* to_end;               // [B, L, H]   e^{l_{t+1} + … + l_{end−1}}
  T* scale;                // [B, L, H]
  T* weights;              // [B, L, H, chunk]
  T* states;               // [places, H, K, V]   what chunks add, then what enters them
  T* adjoints;             // [places, H, K, V]   likewise, backwards
  T* pairs;                // [B, L, G, chunk]    Σ_h fade·(dy_t·v_m)
  T* rest;
};

}  // namespace ssm::cuda::device
