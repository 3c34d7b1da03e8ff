// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/batched_h3_mixer.hpp>

#include "kernel/parallel.cuh"
#include "kernel/tensor_core.cuh"

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

/// A [B, L, D] tensor with channels contiguous.
template <class T>
struct ChannelRows {
  T* data;
  Index batch_stride, position_stride;
};
template <class T, class Space>
ChannelRows<T> channel_rows(const View<T, 3, Space>& x) {
  return {x.data(), x.stride(0), x.stride(1)};
}

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
  /// The first of the block's channels at the column's first position.
  template <class T>
  __device__ T* in(const ChannelRows<T>& x) const {
    return x.data + sequence * x.batch_stride + first * x.position_stride +
           static_cast<Index>(blockIdx.x) * kSide;
  }
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
/// Waits for all groups of this thread's copies but the last.
__device__ inline void wait_for_all_but_last_copies() {
  asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/// A step of one tensor on its way: a warp's column as it comes from memory, 64 rows of 16 bytes.
using IncomingRows = uint4[kSide][kStep];

/// Starts this lane's copies of step `step` of the warp's column; zeros where there is none. Step
/// −1 is what lies before the segment.
__device__ inline void fetch_step(IncomingRows& to, const ChannelRows<const BFloat16>& from,
                                  const ColumnPlace& place, int step) {
  const int warp = side_warp(), lane = threadIdx.x % 32;
  const BFloat16* const column = place.in(from);
#pragma unroll
  for (int i = 0; i < kStep; i += 32) {
    const int position = step * kStep + i + lane;
    copy_async_or_zero(&to[warp][i + lane], column + position * from.position_stride,
                       place.first + position >= 0 && position < place.length);
  }
}
/// The same for steps in order, from `step` on.
class IncomingSteps {
 public:
  __device__ IncomingSteps(const ChannelRows<const BFloat16>& from, const ColumnPlace& place,
                           int step)
      : next_(place.in(from) + (step * kStep + threadIdx.x % 32) * from.position_stride),
        half_(kStep / 2 * from.position_stride) {}
  /// Of step `step`; Direction leads to the next one.
  template <int Direction>
  __device__ void fetch(IncomingRows& to, const ColumnPlace& place, int step) {
    const int warp = side_warp(), lane = threadIdx.x % 32, position = step * kStep + lane;
    copy_async_or_zero(&to[warp][lane], next_, position < place.length);
    copy_async_or_zero(&to[warp][32 + lane], next_ + half_, position + 32 < place.length);
    next_ += Direction * 2 * half_;
  }

 private:
  const BFloat16* next_;
  Index half_;
};

/// A step of one tensor, channel by channel: 64 positions of every column. The pitches keep both
/// sides free of bank conflicts.
struct ChannelTile {
  static constexpr int column_pitch = kStep / 2 + 4, channel_pitch = kSide * column_pitch + 4;
  unsigned pair[kSide * channel_pitch];

  __device__ unsigned* at(int channel, int column, int word) {
    return pair + channel * channel_pitch + column * column_pitch + word;
  }
  /// The warp's column, as it came from memory, to all channels.
  __device__ void scatter(IncomingRows& from) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[4];
      load_transposed(words, &from[warp][32 * half + lane]);
#pragma unroll
      for (int j = 0; j < 4; ++j) *at(lane / 4, warp, 4 * (4 * half + j) + lane % 4) = words[j];
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
  /// Word j of the warp's channel.
  __device__ void write_word(int j, unsigned word) {
    const int warp = side_warp(), lane = threadIdx.x % 32;
    *at(warp, lane / 4, 4 * j + lane % 4) = transpose_tile(word);
  }
  /// The warp's column of all channels to memory.
  __device__ void gather(const ChannelRows<BFloat16>& to, const ColumnPlace& place, int step) {
    const int warp = side_warp(), lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int left = place.length - step * kStep - g;
    BFloat16* row = place.in(to) + (step * kStep + g) * to.position_stride + 2 * q;
    const Index eight = 8 * to.position_stride;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const unsigned channels = transpose_tile(*at(g, warp, 4 * j + q));
      if (8 * j < left) *reinterpret_cast<unsigned*>(row) = channels;
      row += eight;
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
