// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/diagonal_scan.hpp>

#include "kernel/tensor_core.cuh"

namespace ssm::cuda::device {

// A channel's sequence is cut into chunks of 64 positions. A warp holds a tile of 16·MTiles chunks
// as the rows of a matrix [chunks, 64]; the lanes of group g = lane / 4 own 2·MTiles neighboring
// chunks, so that the scan over chunks is mostly inside a lane. Column order inside the products is
// permuted so that a lane's part of a row is two runs of eight neighboring positions: every global
// access is 16 bytes wide and goes straight to registers.

inline constexpr int kChunk = 64;
inline constexpr int kModes = 32;
inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kFragmentWords = 512;  // uint4 in one packed 64 × 64 matrix

template <class T>
inline constexpr int row_tiles = operand_terms<T> == 1 ? 2 : 1;  // 16-row tiles of a warp
template <class T>
inline constexpr int tile_positions = row_tiles<T> * 16 * kChunk;

/// Position in the chunk of column `n` of output tile `tile` (8 columns).
__host__ __device__ constexpr int output_position(int tile, int n) {
  return 32 * (tile >> 2) + 8 * (n >> 1) + 2 * (tile & 3) + (n & 1);
}
/// Position in the chunk of inner index `k` of step `step` (16 indices).
__host__ __device__ constexpr int input_position(int step, int k) {
  return 32 * (step >> 1) + 8 * ((k >> 1) & 3) + 4 * (step & 1) + 2 * (k >> 3) + (k & 1);
}
/// Row of a tile in shared memory for row `r` of lane group `g`, and its swizzle: conflict-free for
/// 16-byte rows of a lane group, for 4-byte columns across groups and for transposing loads.
__host__ __device__ constexpr int stored_row(int g, int r) { return 8 * r + g; }
__host__ __device__ constexpr int stored_vector(int row, int vector) {
  return vector ^ (((row & 1) << 2) | (row & 2) | ((row >> 2) & 1));
}

/// The 64 × 64 matrices of a channel, each [inner, outer]; p position, s state (re, im
/// interleaved).
///   lift     [p, s]  b·a^(63−p)          rows of a chunk → what it adds to the state
///   toeplitz [p, q]  K[q−p], q ≥ p       the chunk's own output; K the kernel's first 64 taps
///   lower    [s, q]  2·Re(c·a^(q+1) · )  the state's output
///   raise    [p, s], backward [p, q], spread [s, q]: their transposes, for the adjoint walk
enum Matrix { kToeplitz, kLower, kLift, kRaise, kBackward, kSpread, kMatrices };

/// Rows of a channel's table of powers, [kTableRows, kTablePitch].
///   one row of chunks, 2 rows … : a^64, a^(64R), a^(128R), a^(256R),
///                                 a^(64R·g) for g = 0 … 7, a^(512R), a, b, c, 0
enum TableRow {
  kRow = 0,
  kGroup = 1,
  kPrefix = 4,
  kTile = 12,
  kOne = 13,
  kInput = 14,
  kOutput = 15,
  kZero = 16,
  kTableRows = 17
};

inline constexpr int kPowers = kChunk + 1;  // a^0 … a^64

/// Terms kept of every matrix. What builds the states is a systematic error of all gradients, so
/// bf16 data, with one term elsewhere, uses two of `lift` and `raise`.
template <class T>
inline constexpr int matrix_terms = operand_terms<T> == 1 ? 2 : operand_terms<T>;

inline constexpr int kTablePitch = kModes + 4;  // neighboring rows in different banks

/// Where a channel's matrices, tables and powers lie in the workspace.
template <class T>
struct ChannelLayout {
  static constexpr int terms = matrix_terms<T>;
  static constexpr std::size_t matrix_bytes = std::size_t{terms} * kFragmentWords * 16;
  static constexpr std::size_t table_bytes = kTableRows * kTablePitch * sizeof(float2);
  static constexpr std::size_t table_at = kMatrices * matrix_bytes;
  static constexpr std::size_t powers_at = table_at + table_bytes;
  static constexpr std::size_t bytes = powers_at + kPowers * kModes * 8;
};

/// The part of a sequence tensor that one work item walks over.
struct Range {
  long long first;  // position in the batch row
  int length;
  int batch;
  long long checkpoint;  // its first row of checkpoints
};

/// Item `s` of the batch, or segment `s` of the packed row; beyond the last an empty one.
template <int TilePositions>
__device__ inline Range sequence_range(const DiagonalScanShape& shape, int s) {
  if (shape.segments != nullptr) {
    if (s >= shape.segment_count) return {0, 0, 0, 0};
    const int begin = shape.segments[s], end = shape.segments[s + 1];
    return {begin, end - begin, 0, begin / TilePositions + s};
  }
  if (s >= shape.batch) return {0, 0, 0, 0};
  return {0, shape.length, s,
          static_cast<long long>(s) * ((shape.length + TilePositions - 1) / TilePositions)};
}

template <class T>
__device__ inline T* at(const Sequences<T>& tensor, const Range& range, int channel) {
  if (tensor.data == nullptr) return nullptr;
  return tensor.data + range.batch * tensor.batch_stride + channel * tensor.channel_stride +
         range.first;
}

/// The same `offset` positions further on, computed anew wherever it is used: pointers to many
/// tensors that live through a walk take registers from it.
template <class T>
__device__ inline T* at(const Sequences<T>& tensor, Range range, int channel, long long offset) {
  asm volatile("" : "+r"(range.batch));
  T* const p = at(tensor, range, channel);
  return p == nullptr ? nullptr : p + offset;
}

}  // namespace ssm::cuda::device
