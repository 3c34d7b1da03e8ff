// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/batched_h3_mixer.hpp>

#include "kernel/parallel.cuh"
#include "kernel/shared_tiles.cuh"

namespace ssm::cuda::device {

// A block has eight neighboring channels of eight columns, 16 bytes of each position, and walks
// over the positions in steps of 64. A column is a sequence, or a segment of one. The eight warps
// of a block own a column each while numbers come from or go to memory, and a channel each in
// between, where every matrix is a left operand, and blocks of 16 positions, or 16 numbers of the
// states of 8 modes, are right operands. Of a block of states the first eight rows are real parts,
// the others imaginary ones. What is called words of a step is eight pairs a lane: word j has
// positions 8j + g of columns 2q and 2q + 1, g = lane / 4 and q = lane % 4, as accumulators have
// them.

inline constexpr int kStep = 64;   // positions
inline constexpr int kBlock = 16;  // positions
inline constexpr int kStepBlocks = kStep / kBlock;
inline constexpr int kSide = 8;  // channels, columns and warps of a block of threads
inline constexpr int kMixerThreads = 32 * kSide;
inline constexpr int kMixerModes = 32;
inline constexpr int kModeTiles = kMixerModes / 8;
inline constexpr int kMixerTaps = 64;
inline constexpr int kTapWords = 9;  // of a lane, for 64 taps

/// 16 × 64 or 64 × 16, a tile of 16 × 16 for each eight modes.
struct StateMatrix {
  uint4 fragment[kModeTiles][32];
};
/// The Toeplitz matrix of the shift's taps, or its transpose: two terms.
struct TapMatrix {
  unsigned word[2][kTapWords][32];
};

/// What a channel's parameters are to the forward walk; x_j = b·a^(15−j), K the diagonal model's
/// taps.
struct ForwardMatrices {
  StateMatrix lift[2];        // [states, positions]  x_j: two terms
  StateMatrix lower;          // [positions, states]  2·Re(c·a^(i+1)·)
  TapMatrix taps;             // here [i, j] = tap_{i−j}
  unsigned toeplitz[2][32];   // [i, j] = K[i−j]
  float2 power[kMixerModes];  // a^16
  float skip;
};
/// And to the adjoint walk.
struct AdjointMatrices {
  StateMatrix lift[2];
  StateMatrix raise[2];      // [states, positions]  2·conj(c·a^(i+1)): two terms
  StateMatrix spread;        // [positions, states]  Re(conj(x_j)·)
  unsigned toeplitz[2][32];  // the transpose
  float2 power[kMixerModes];
  float skip;
};

/// Which of the eight warps of its group this one is.
__device__ inline int side_warp() { return static_cast<int>(threadIdx.x) / 32 % kSide; }

/// Sequences as columns. With more than one segment a sequence, `length` is a multiple of 64.
struct Columns {
  int sequences;
  int segments;  // of a sequence
  int length;    // of a segment

  __host__ __device__ int count() const { return sequences * segments; }
  __host__ __device__ int steps() const { return (length + kStep - 1) / kStep; }
  __device__ int sequence(int column) const { return column / segments; }
  __device__ int segment(int column) const { return column % segments; }
};
/// Where the warp's column lies while numbers come or go.
struct ColumnPlace {
  explicit __device__ ColumnPlace(const Columns& columns)
      : column(static_cast<int>(blockIdx.y) * kSide + side_warp()),
        sequence(columns.sequence(column)),
        first(column < columns.count() ? columns.segment(column) * columns.length : 0),
        length(column < columns.count() ? columns.length : 0) {}
  int column;
  Index sequence, first;
  int length;
};

/// An 8 × 8 tile of 16-bit numbers, row g and columns 2q, 2q + 1 in a lane, transposed.
__device__ inline unsigned transpose_tile(unsigned pairs) {
  unsigned result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(result) : "r"(pairs));
  return result;
}
__device__ inline unsigned multiply_pairs(unsigned a, unsigned b) {
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(a),
                                         reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const unsigned&>(product);
}
/// sum += matrix · right
__device__ inline void multiply_block(float (&sum)[4], const uint4& matrix, unsigned right0,
                                      unsigned right1) {
  const unsigned left[4] = {matrix.x, matrix.y, matrix.z, matrix.w};
  multiply_tile(sum, left, right0, right1);
}
/// A step of one tensor as it lies in memory: 64 rows of 16 bytes of each warp's column.
using ColumnRows = uint4[kSide][kStep];

/// A step of one tensor, channel by channel: 64 positions of every column. The pitches keep both
/// sides free of bank conflicts.
struct ChannelTile {
  static constexpr int column_pitch = kStep / 2 + 4, channel_pitch = kSide * column_pitch + 4;
  unsigned pair[kSide * channel_pitch - 8];  // without what lies between channels

  __device__ unsigned* at(int channel, int column, int word) {
    return pair + channel * channel_pitch + column * column_pitch + word;
  }
  /// The warp's column, as it came from memory, to all channels.
  __device__ void scatter(ColumnRows& from) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[4];
      load_transposed(words, &from[warp][32 * half + lane]);
      store_tiles<false>(shared_address(at(lane % 8, warp, 4 * (4 * half + lane / 8))), words[0],
                         words[1], words[2], words[3]);
    }
  }
  /// The warp's channel: as right operands, word j positions 8j + 2q, + 1 of column g.
  __device__ void read_operands(unsigned (&to)[8]) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[4];
      load_tiles(words, at(warp, lane % 8, 4 * (4 * half + lane / 8)));
#pragma unroll
      for (int j = 0; j < 4; ++j) to[4 * half + j] = words[j];
    }
  }
  /// The same as words of a step.
  __device__ void read_words(unsigned (&to)[8]) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[4];
      load_transposed(words, at(warp, lane % 8, 4 * (4 * half + lane / 8)));
#pragma unroll
      for (int j = 0; j < 4; ++j) to[4 * half + j] = words[j];
    }
  }
  /// Words of a step to the warp's channel.
  __device__ void write_words(const unsigned (&words)[8]) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      store_tiles<true>(shared_address(at(warp, lane % 8, 4 * (4 * half + lane / 8))),
                        words[4 * half], words[4 * half + 1], words[4 * half + 2],
                        words[4 * half + 3]);
  }
  /// The warp's column of all channels, as it goes to memory.
  __device__ void gather(ColumnRows& to) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[4];
      load_transposed(words, at(lane % 8, warp, 4 * (4 * half + lane / 8)));
      store_tiles<false>(shared_address(&to[warp][32 * half + lane]), words[0], words[1], words[2],
                         words[3]);
    }
  }
};

/// A step of the warp's channel and its columns, private to the walks: eight words a lane.
__device__ inline void keep_words(uint4* to, const unsigned (&words)[8]) {
  const int lane = threadIdx.x % 32;
  to[lane] = {words[0], words[1], words[2], words[3]};
  to[32 + lane] = {words[4], words[5], words[6], words[7]};
}
__device__ inline void read_kept(unsigned (&words)[8], const uint4& low, const uint4& high) {
  words[0] = low.x, words[1] = low.y, words[2] = low.z, words[3] = low.w;
  words[4] = high.x, words[5] = high.y, words[6] = high.z, words[7] = high.w;
}
inline constexpr int kKeptWords = 64;  // uint4 of a step
/// What the forward walk keeps of a step for the adjoint one.
enum KeptTensor { kKeptShifted, kKeptStates, kKeptOutputs, kKeptTensors };

/// Reads the warp's states, [columns, D, P, 2], as accumulators; zeros where there are none.
__device__ inline void read_states(float (&to)[kModeTiles][4], const Operand<const float, 4>& from,
                                   int channel, int columns, int modes) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < kModeTiles; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int mode = 8 * m + lane / 4, column = blockIdx.y * kSide + 2 * (lane % 4) + i % 2;
      to[m][i] =
          from && mode < modes && column < columns ? from(column, channel, mode, i / 2) : 0.f;
    }
}
__device__ inline void write_states(const Operand<float, 4>& to, const float (&from)[kModeTiles][4],
                                    int channel, int columns, int modes) {
  const int lane = threadIdx.x % 32;
  if (!to) return;
#pragma unroll
  for (int m = 0; m < kModeTiles; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int mode = 8 * m + lane / 4, column = blockIdx.y * kSide + 2 * (lane % 4) + i % 2;
      if (mode < modes && column < columns) to(column, channel, mode, i / 2) = from[m][i];
    }
}

}  // namespace ssm::cuda::device
