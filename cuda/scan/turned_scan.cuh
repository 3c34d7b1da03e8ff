// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/warpgroup_products.cuh"
#include "scan/diagonal_scan_matrices.cuh"
#include "scan/turned_tiles.cuh"

namespace ssm::cuda::device {

// The diagonal scan of bf16 data with the chunks of a tile as columns, by products of warpgroups:
// a channel's matrices are left operands and stay in registers, and a thread has one mode, whose
// powers are its own, of eight neighboring chunks. Rows 16·w … 16·w + 15 of states are the real
// parts of modes 8·w … 8·w + 7, then the imaginary ones.

/// Sums of a product [64, 32 · Tiles] of this thread: chunks of a tile, then another sequence's.
template <int Tiles>
using TurnedSums = float[4 * Tiles][4];

/// A left operand [64, 64] in registers.
struct TurnedMatrix {
  unsigned step[4][4];
};

#define SSM_ROW(mode, c, n) mode(c[n][0]), mode(c[n][1]), mode(c[n][2]), mode(c[n][3])
#define SSM_SUMS_1(mode, c) \
  SSM_ROW(mode, c, 0), SSM_ROW(mode, c, 1), SSM_ROW(mode, c, 2), SSM_ROW(mode, c, 3)
#define SSM_SUMS_2(mode, c)                                                           \
  SSM_SUMS_1(mode, c), SSM_ROW(mode, c, 4), SSM_ROW(mode, c, 5), SSM_ROW(mode, c, 6), \
      SSM_ROW(mode, c, 7)
#define SSM_NAMES_1 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define SSM_NAMES_2 SSM_NAMES_1 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SSM_MULTIPLY(tiles, columns, mode, adds, right, prepare, left, ...)                 \
  asm volatile("{.reg .pred p; .reg .b64 a, b; setp.ne.b32 p," adds ",0; mov.b64 b,{" right \
               ",0x40000040}; " prepare "wgmma.mma_async.sync.aligned.m64n" columns         \
               "k16.f32.bf16.bf16 {" SSM_NAMES_##tiles "}," left                            \
               : SSM_SUMS_##tiles(mode, c)                                                  \
               : "r"(b), __VA_ARGS__)
#define SSM_MULTIPLY_REGISTERS(mode, adds)                                                   \
  if constexpr (Tiles == 1)                                                                  \
    SSM_MULTIPLY(1, "32", mode, adds, "%16", "", "{%17,%18,%19,%20},b,p,1,1,0;}", "r"(a[0]), \
                 "r"(a[1]), "r"(a[2]), "r"(a[3]));                                           \
  else                                                                                       \
    SSM_MULTIPLY(2, "64", mode, adds, "%32", "", "{%33,%34,%35,%36},b,p,1,1,0;}", "r"(a[0]), \
                 "r"(a[1]), "r"(a[2]), "r"(a[3]))
#define SSM_MULTIPLY_SHARED(mode, adds)                                                         \
  if constexpr (Tiles == 1)                                                                     \
    SSM_MULTIPLY(1, "32", mode, adds, "%16", "mov.b64 a,{%17,0x40000040}; ", "a,b,p,1,1,0,0;}", \
                 "r"(a));                                                                       \
  else                                                                                          \
    SSM_MULTIPLY(2, "64", mode, adds, "%32", "mov.b64 a,{%33,0x40000040}; ", "a,b,p,1,1,0,0;}", \
                 "r"(a))

/// Names a matrix of rows of 128 bytes for the products below: the low word of describe_panels.
__device__ inline unsigned name_rows(unsigned address) { return address >> 4 | 1 << 16; }

/// c += a · b, or c = a · b where it does not add: the old sums are then no operand, and need no
/// registers. a [64, 16] in registers, b [16, 32 · Tiles] in shared memory with its inner axis
/// contiguous.
template <bool Adds, int Rows>
__device__ inline void multiply_columns(float (&c)[Rows][4], const unsigned (&a)[4], unsigned b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  constexpr int Tiles = Rows / 4;
  if constexpr (Adds) {
    SSM_MULTIPLY_REGISTERS("+f", "1");
  } else {
    SSM_MULTIPLY_REGISTERS("=f", "0");
  }
#endif
}
/// The same of a [64, 16] in shared memory with its inner axis contiguous.
template <bool Adds, int Rows>
__device__ inline void multiply_columns(float (&c)[Rows][4], unsigned a, unsigned b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  constexpr int Tiles = Rows / 4;
  if constexpr (Adds) {
    SSM_MULTIPLY_SHARED("+f", "1");
  } else {
    SSM_MULTIPLY_SHARED("=f", "0");
  }
#endif
}
#undef SSM_MULTIPLY_SHARED
#undef SSM_MULTIPLY_REGISTERS
#undef SSM_MULTIPLY
#undef SSM_NAMES_2
#undef SSM_NAMES_1
#undef SSM_SUMS_2
#undef SSM_SUMS_1
#undef SSM_ROW

/// c += a · tile or c = a · tile; a [64, 64] in registers or in shared memory.
template <bool Adds, int Rows>
__device__ inline void multiply_tile_columns(float (&c)[Rows][4], const TurnedMatrix& a,
                                             unsigned tile) {
  multiply_columns<Adds>(c, a.step[0], tile);
#pragma unroll
  for (int step = 1; step < 4; ++step) multiply_columns<true>(c, a.step[step], tile + 2 * step);
}
template <bool Adds, int Rows>
__device__ inline void multiply_tile_columns(float (&c)[Rows][4], unsigned a, unsigned tile) {
  multiply_columns<Adds>(c, a, tile);
#pragma unroll
  for (int step = 1; step < 4; ++step) multiply_columns<true>(c, a + 2 * step, tile + 2 * step);
}

/// A left operand of one term from entry(row, column).
template <class Entry>
__device__ inline void make_turned(TurnedMatrix& matrix, const Entry& entry) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * warp + g + 8 * (i % 2), column = 16 * step + 2 * q + 8 * (i / 2);
      matrix.step[step][i] = pack_bf16(entry(row, column), entry(row, column + 1));
    }
}
/// One of `Terms` terms whose rows are states, from value(position) of this thread's mode.
template <int Terms, class Value>
__device__ inline void make_state_rows(TurnedMatrix (&terms)[Terms], const Value& value) {
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = 16 * step + 2 * q + 8 * half;
      const float2 low = value(position), high = value(position + 1);
      unsigned real[Terms], imaginary[Terms];
      split_bf16(low.x, high.x, real), split_bf16(low.y, high.y, imaginary);
#pragma unroll
      for (int t = 0; t < Terms; ++t)
        terms[t].step[step][2 * half] = real[t], terms[t].step[step][2 * half + 1] = imaginary[t];
    }
}
/// One whose columns are states, from value(mode, position).
template <class Value>
__device__ inline void make_state_columns(TurnedMatrix& matrix, const Value& value) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = 16 * warp + g + 8 * half, mode = 8 * step + 2 * q;
      const float2 low = value(mode, position), high = value(mode + 1, position);
      matrix.step[step][half] = pack_bf16(low.x, high.x);
      matrix.step[step][2 + half] = pack_bf16(low.y, high.y);
    }
}
/// Mode and part of a row of states.
__device__ inline int turned_mode(int row) { return row / 16 * 8 + row % 8; }
__device__ inline bool is_imaginary(int row) { return row / 8 % 2 == 1; }

/// A channel's powers and the first taps of its kernel, behind kChunk zeros, in shared memory.
struct TurnedTables {
  // Behind the powers of a chunk's positions: a^512, a^1024, a^1536, a^2048, b and c.
  enum Row { kHops = kPowers, kWhole = kHops + 3, kIn, kOut, kRows };
  // Lanes that read neighboring modes at every second position find them in different banks.
  static constexpr int pitch = kModes + 2;
  static constexpr int power_bytes = kRows * pitch * 8, tap_bytes = 2 * kChunk * 4;
  float2* power;  // [kRows, pitch]
  float* zeros;   // [2 · kChunk]

  __device__ const float* taps() const { return zeros + kChunk; }
  __device__ float2 at(int row, int mode) const { return power[row * pitch + mode]; }
  /// What a position adds to the state at the end of its chunk.
  __device__ float2 lift(int mode, int position) const {
    return multiply(at(kIn, mode), at(kChunk - 1 - position, mode));
  }
  /// The weights of a state's parts in the output at a position.
  __device__ float2 lower(int mode, int position) const {
    const float2 v = multiply(at(kOut, mode), at(position + 1, mode));
    return {2.f * v.x, -2.f * v.y};
  }
  /// Asks for what a channel's powers are made of, by 128 threads.
  __device__ void prefetch(const DiagonalScanParameters& p, int modes, int channel,
                           int thread) const {
    const long long index = static_cast<long long>(channel) * modes + min(thread % 32, modes - 1);
    const int which = thread / 32;
    const void* const at = which == 0   ? static_cast<const void*>(p.a + index)
                           : which == 1 ? static_cast<const void*>(p.b + index)
                           : which == 2 ? static_cast<const void*>(p.c + index)
                                        : static_cast<const void*>(p.dt + channel);
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
  }
  /// Makes the powers, by `Parts` warps.
  template <int Parts>
  __device__ void make(const DiagonalScanParameters& p, int modes, int channel, int thread) const {
    const int mode = thread % kModes, part = thread / kModes;
    const ModeOf m = mode_of(p, modes, channel, mode);
    const auto write = [&](int row, double2 v) {
      power[row * pitch + mode] = {static_cast<float>(v.x), static_cast<float>(v.y)};
    };
    double2 square[6];  // a^2 … a^64
    square[0] = multiply(m.a, m.a);
#pragma unroll
    for (int i = 1; i < 6; ++i) square[i] = multiply(square[i - 1], square[i - 1]);
    // Runs of eight powers, side by side: each is a chain.
    double2 run[8 / Parts];
#pragma unroll
    for (int i = 0; i < 8 / Parts; ++i) {
      const int eight = part + i * Parts;
      run[i] = {1.0, 0.0};
      if (eight & 1) run[i] = square[2];
      if (eight & 2) run[i] = multiply(run[i], square[3]);
      if (eight & 4) run[i] = multiply(run[i], square[4]);
    }
#pragma unroll
    for (int t = 0; t < 8; ++t)
#pragma unroll
      for (int i = 0; i < 8 / Parts; ++i) {
        write(8 * (part + i * Parts) + t, run[i]);
        run[i] = multiply(run[i], m.a);
      }
    if (part > 0) return;
    const double2 a128 = multiply(square[5], square[5]), a256 = multiply(a128, a128),
                  a512 = multiply(a256, a256), a1024 = multiply(a512, a512);
    write(kChunk, square[5]);
    write(kHops, a512);
    write(kHops + 1, a1024);
    write(kHops + 2, multiply(a1024, a512));
    write(kWhole, multiply(a1024, a1024));
    write(kIn, m.b);
    power[kOut * pitch + mode] = m.c;
  }
  /// Taps of the powers that have come, the skip added to the first, by `Threads` threads; a lane
  /// has a mode.
  template <int Threads>
  __device__ void sum_taps(int thread, float skip) const {
    constexpr int warps = Threads / 32;
    const int lane = thread % 32;
    const float2 bc = multiply(at(kOut, lane), at(kIn, lane));
#pragma unroll
    for (int i = 0; i < kChunk / warps; ++i) {
      const int t = thread / 32 + i * warps;
      float sum = multiply(bc, at(t, lane)).x;
#pragma unroll
      for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
      if (lane == 0) zeros[kChunk + t] = 2.f * sum + (t == 0 ? skip : 0.f);
    }
    if (thread < kChunk) zeros[thread] = 0.f;
  }
};

/// A block's part of the items of all channels, which lie one behind the other: neighboring items,
/// channel by channel.
struct TurnedShare {
  int items, left;           // of a channel, of the block
  int channel, first, here;  // those of one channel

  __device__ TurnedShare(int items, int channels) : items(items) {
    const long long all = static_cast<long long>(channels) * items;
    const long long begin = all * blockIdx.x / gridDim.x, end = all * (blockIdx.x + 1) / gridDim.x;
    left = static_cast<int>(end - begin);
    channel = static_cast<int>(begin / items), first = static_cast<int>(begin % items);
    here = min(left, items - first);
  }
  __device__ void advance() {
    left -= here, first = 0, ++channel;
    here = min(left, items);
  }
};

/// Powers of this thread's mode for the scan of a tile in one direction.
struct TurnedPowers {
  float2 chunk;    // a^64
  float2 step[2];  // a^512, a^1024, or zero where that many lanes before have none
  float2 prefix;   // a^(512·lanes before)
  float2 tile;     // a^2048
};
template <bool Reverse>
__device__ inline TurnedPowers turned_powers(const TurnedTables& tables, int mode, int q) {
  const int order = Reverse ? 3 - q : q;
  const auto power = [&](int row) {
    const float2 a = tables.at(row, mode);
    return Reverse ? conjugate(a) : a;
  };
  const float2 none{0.f, 0.f};
  return {power(kChunk),
          {order >= 1 ? power(TurnedTables::kHops) : none,
           order >= 2 ? power(TurnedTables::kHops + 1) : none},
          power(order > 0 ? TurnedTables::kHops - 1 + order : 0),
          power(TurnedTables::kWhole)};
}

/// Scans what the chunks add over the chunks of each tile: `v` becomes the state each chunk starts
/// from (before it; Reverse: after it), and the carries move on by a tile.
template <bool Reverse, int Tiles>
__device__ inline void scan_columns(float (&v)[4 * Tiles][4], const TurnedPowers& p,
                                    float2 (&carry)[Tiles]) {
  const int q = threadIdx.x % 4;
  const auto at = [&](int k) { return Reverse ? 7 - k : k; };
  const auto added = [&](int h, int k) {
    return float2{v[4 * h + k / 2][k % 2], v[4 * h + k / 2][2 + k % 2]};
  };
  const auto shift = [&](float2 x, int delta) {
    return Reverse ? float2{__shfl_down_sync(~0u, x.x, delta), __shfl_down_sync(~0u, x.y, delta)}
                   : float2{__shfl_up_sync(~0u, x.x, delta), __shfl_up_sync(~0u, x.y, delta)};
  };
  float2 total[Tiles], state[Tiles];
#pragma unroll
  for (int h = 0; h < Tiles; ++h) total[h] = added(h, at(0));
#pragma unroll
  for (int k = 1; k < 8; ++k)
#pragma unroll
    for (int h = 0; h < Tiles; ++h) total[h] = multiply_add(p.chunk, total[h], added(h, at(k)));
#pragma unroll
  for (int hop = 0; hop < 2; ++hop) {
#pragma unroll
    for (int h = 0; h < Tiles; ++h) state[h] = shift(total[h], 1 + hop);
#pragma unroll
    for (int h = 0; h < Tiles; ++h) total[h] = multiply_add(p.step[hop], state[h], total[h]);
  }
  constexpr int last = Reverse ? 0 : 3;
#pragma unroll
  for (int h = 0; h < Tiles; ++h) {
    float2 before = shift(total[h], 1);
    if (q == (Reverse ? 3 : 0)) before = {0.f, 0.f};
    const float2 all{__shfl_sync(~0u, total[h].x, last, 4), __shfl_sync(~0u, total[h].y, last, 4)};
    state[h] = multiply_add(p.prefix, carry[h], before);
    carry[h] = multiply_add(p.tile, carry[h], all);
  }
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int h = 0; h < Tiles; ++h) {
      const int c = at(k), n = 4 * h + c / 2;
      const float2 here = added(h, c);
      v[n][c % 2] = state[h].x, v[n][2 + c % 2] = state[h].y;
      if (k < 7) state[h] = multiply_add(p.chunk, state[h], here);
    }
}

/// Columns as pairs of bf16: the first rows' and the second rows' of eight columns each.
template <int Rows>
__device__ inline void pack_columns(const float (&v)[Rows][4], unsigned (&words)[2 * Rows]) {
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
    words[2 * j] = pack_bf16(v[j][0], v[j][1]);
    words[2 * j + 1] = pack_bf16(v[j][2], v[j][3]);
  }
}
/// `place`: turned_lane_place in the first tile.
template <int Words>
__device__ inline void store_columns(unsigned place, const unsigned (&words)[Words]) {
#pragma unroll
  for (int i = 0; i < Words / 4; ++i)
    store_tiles<true>(place + 2048 * i, words[4 * i], words[4 * i + 1], words[4 * i + 2],
                      words[4 * i + 3]);
}

}  // namespace ssm::cuda::device
