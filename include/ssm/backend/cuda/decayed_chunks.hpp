// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/sequence_chunks.hpp"

namespace ssm::cuda {

/// Sizes of a memory of keys and values that fades:
///   S_t = e^{l_t}·S_{t−1} + k_t ⊗ v_t,   y_t = q_t·S_t
/// with keys shared by the H/G heads of a group. It is computed by chunks: what a chunk adds to S,
/// the S that enter the chunks, and the positions of a chunk with each other.
struct DecayedSizes {
  Index batch = 0;
  Index length = 0;
  Index sequences = 0;
  Index heads = 0;
  Index groups = 0;
  Index keys = 0;
  Index values = 0;
  SequenceChunks chunks{};

  constexpr Index rows() const { return batch * length * heads; }
  constexpr Index state() const { return heads * keys * values; }
  /// [B, L, H] factors from the chunk's begin, to its end, and of the values; [B, L, H, chunk]
  /// products of queries with keys; [places, H, K, V] states.
  constexpr Index forward_scratch() const {
    return rows() * (3 + chunks.length) + chunks.places * state();
  }
  /// Beside them [places, H, K, V] adjoints and [B, L, G, chunk] products of gradients with values.
  constexpr Index backward_scratch() const {
    return forward_scratch() + chunks.places * state() + batch * length * groups * chunks.length;
  }
};

/// Positions that are multiplied with each other directly: more where the state is larger.
constexpr Index decayed_chunk(Index keys, Index values) { return keys + values >= 192 ? 128 : 64; }

}  // namespace ssm::cuda
