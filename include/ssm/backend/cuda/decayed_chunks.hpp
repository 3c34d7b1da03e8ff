// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <limits>

#include "ssm/backend/cuda/choice.hpp"
#include "ssm/backend/cuda/sequence_chunks.hpp"

namespace ssm::cuda {

/// The most positions of a chunk of the tensor-core kernels.
inline constexpr Index kDecayedTile = 128;

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
  /// Of the tensor-core kernels, in floats: [places, H, K, V] states and [places, H, 128, 128]
  /// faded products of queries with keys in the half type, [5, B, L, H] factors. Where heads share
  /// keys, [places, G, 128, 128] products that are faded where they are used.
  constexpr Index tiled_forward_scratch() const {
    return chunks.places * (state() + groups * kDecayedTile * kDecayedTile) / 2 + 5 * rows();
  }
  /// Beside them [places, H, K, V] adjoints and [places, G, 128, 128] products of gradients with
  /// values, both in the half type.
  constexpr Index tiled_backward_scratch() const {
    return tiled_forward_scratch() +
           chunks.places * (state() + groups * kDecayedTile * kDecayedTile) / 2;
  }
};

/// Positions that are multiplied with each other directly: more where the state is larger.
constexpr Index decayed_chunk(Index keys, Index values) { return keys + values >= 192 ? 128 : 64; }

/// What the tensor-core kernels need of an operand [B, L, H, C] in a half type: C contiguous and a
/// multiple of 16, rows that begin at multiples of 16 bytes. Operands that are left out pass.
template <class V>
bool has_tiled_rows(const V& x) {
  if (!x || x.size() == 0) return !x;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0;
  return is_aligned && x.extent(3) % 16 == 0 && x.stride(3) == 1 && x.stride(0) % 8 == 0 &&
         x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0 &&
         std::abs(x.stride(1)) <= std::numeric_limits<int>::max();
}
/// Whether the tensor-core kernels are there and worth their padding: chunks of 32 positions and
/// more.
inline bool has_tiles(const DecayedSizes& sizes) {
  constexpr Index most = std::numeric_limits<int>::max();
  return sizes.chunks.length >= 32 && sizes.length <= most &&
         sizes.chunks.places <= most / sizes.heads / (2 + (sizes.keys + sizes.values) / 64) &&
         has_tensor_core_kernels();
}

}  // namespace ssm::cuda
