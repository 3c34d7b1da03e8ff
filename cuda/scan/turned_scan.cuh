// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/shared_tiles.cuh"
#include "kernel/warpgroup_products.cuh"
#include "scan/diagonal_scan_matrices.cuh"

namespace ssm::cuda::device {

// The diagonal scan of bf16 data with the chunks of a tile as columns, by products of warpgroups:
// a channel's matrices are left operands and stay in registers, and a thread has one mode, whose
// powers are its own, of eight neighboring chunks. A tile in shared memory is 32 rows of 128 bytes,
// a chunk's positions or states; chunk 8·q + 2·j + i is row 8·j + 2·q + i, so that the columns of
// four neighboring lanes are all chunks. Rows 16·w … 16·w + 15 of states are the real parts of
// modes 8·w … 8·w + 7, then the imaginary ones.

inline constexpr int kTurnedTile = 2048;              // positions
inline constexpr int kTurnedBytes = 2 * kTurnedTile;  // of a tile
inline constexpr int kTurnedThreads = 128;            // of a warpgroup

/// Sums of a product [64, 32] of this thread.
using TurnedSums = float[4][4];

/// A left operand [64, 64] in registers.
struct TurnedMatrix {
  unsigned step[4][4];
};

/// Byte of a tile where eight positions `piece` of a chunk are.
__device__ inline int turned_place(int chunk, int piece) {
  const int line = 2 * (chunk / 8) + chunk % 2;
  return (8 * (chunk % 8 / 2) + line) * 128 + (piece ^ line) * 16;
}
/// Byte of a tile that this lane names to store or load the warp's 16 rows of 16 columns, turned.
__device__ inline int turned_lane_place(int warp, int lane) {
  const int which = lane / 8, line = lane % 8;
  return (8 * (which / 2) + line) * 128 + ((2 * warp + which % 2) ^ line) * 16;
}

#define SSM_ROW(mode, c, n) mode(c[n][0]), mode(c[n][1]), mode(c[n][2]), mode(c[n][3])
#define SSM_SUMS(mode, c) \
  SSM_ROW(mode, c, 0), SSM_ROW(mode, c, 1), SSM_ROW(mode, c, 2), SSM_ROW(mode, c, 3)
#define SSM_MULTIPLY(mode, adds, prepare, left, ...)                           \
  asm volatile("{.reg .pred p; .reg .b64 a, b; setp.ne.b32 p," adds            \
               ",0; mov.b64 b,{%16,0x40000040}; " prepare                      \
               "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "         \
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}," left \
               : SSM_SUMS(mode, c)                                             \
               : "r"(b), __VA_ARGS__)
#define SSM_MULTIPLY_REGISTERS(mode, adds)                                                       \
  SSM_MULTIPLY(mode, adds, "", "{%17,%18,%19,%20},b,p,1,1,0;}", "r"(a[0]), "r"(a[1]), "r"(a[2]), \
               "r"(a[3]))
#define SSM_MULTIPLY_SHARED(mode, adds) \
  SSM_MULTIPLY(mode, adds, "mov.b64 a,{%17,0x40000040}; ", "a,b,p,1,1,0,0;}", "r"(a))

/// Names a matrix of rows of 128 bytes for the products below: the low word of describe_panels.
__device__ inline unsigned name_rows(unsigned address) { return address >> 4 | 1 << 16; }

/// c += a · b, or c = a · b where it does not add: the old sums are then no operand, and need no
/// registers. a [64, 16] in registers, b [16, 32] in shared memory with its inner axis contiguous.
template <bool Adds>
__device__ inline void multiply_columns(TurnedSums& c, const unsigned (&a)[4], unsigned b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  if constexpr (Adds)
    SSM_MULTIPLY_REGISTERS("+f", "1");
  else
    SSM_MULTIPLY_REGISTERS("=f", "0");
#endif
}
/// The same of a [64, 16] in shared memory with its inner axis contiguous.
template <bool Adds>
__device__ inline void multiply_columns(TurnedSums& c, unsigned a, unsigned b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  if constexpr (Adds)
    SSM_MULTIPLY_SHARED("+f", "1");
  else
    SSM_MULTIPLY_SHARED("=f", "0");
#endif
}
#undef SSM_MULTIPLY_SHARED
#undef SSM_MULTIPLY_REGISTERS
#undef SSM_MULTIPLY
#undef SSM_SUMS
#undef SSM_ROW

/// c += a · tile or c = a · tile; a [64, 64] in registers or in shared memory.
template <bool Adds>
__device__ inline void multiply_tile_columns(TurnedSums& c, const TurnedMatrix& a, unsigned tile) {
  multiply_columns<Adds>(c, a.step[0], tile);
#pragma unroll
  for (int step = 1; step < 4; ++step) multiply_columns<true>(c, a.step[step], tile + 2 * step);
}
template <bool Adds>
__device__ inline void multiply_tile_columns(TurnedSums& c, unsigned a, unsigned tile) {
  multiply_columns<Adds>(c, a, tile);
#pragma unroll
  for (int step = 1; step < 4; ++step) multiply_columns<true>(c, a + 2 * step, tile + 2 * step);
}

/// The states that two tiles add, v = (a[0] + a[1]) · tile and w = (b[0] + b[1]) · other, in turn:
/// products that add to the same sums wait for each other.
__device__ inline void multiply_pair_of_tiles(TurnedSums& v, const TurnedMatrix (&a)[2],
                                              unsigned tile, TurnedSums& w,
                                              const TurnedMatrix (&b)[2], unsigned other) {
  multiply_columns<false>(v, a[0].step[0], tile);
  multiply_columns<false>(w, b[0].step[0], other);
#pragma unroll
  for (int i = 1; i < 8; ++i) {
    multiply_columns<true>(v, a[i / 4].step[i % 4], tile + 2 * (i % 4));
    multiply_columns<true>(w, b[i / 4].step[i % 4], other + 2 * (i % 4));
  }
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
  /// Taps of the powers that have come, by `Threads` threads; a lane has a mode.
  template <int Threads>
  __device__ void sum_taps(int thread) const {
    constexpr int warps = Threads / 32;
    const int lane = thread % 32;
    const float2 bc = multiply(at(kOut, lane), at(kIn, lane));
#pragma unroll
    for (int i = 0; i < kChunk / warps; ++i) {
      const int t = thread / 32 + i * warps;
      float sum = multiply(bc, at(t, lane)).x;
#pragma unroll
      for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(~0u, sum, other);
      if (lane == 0) zeros[kChunk + t] = 2.f * sum;
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

/// Scans what the chunks add over the chunks of a tile: `v` becomes the state each chunk starts
/// from (before it; Reverse: after it), and the carry moves on by a tile.
template <bool Reverse>
__device__ inline void scan_columns(TurnedSums& v, const TurnedPowers& p, float2& carry) {
  const int q = threadIdx.x % 4;
  const auto at = [&](int k) { return Reverse ? 7 - k : k; };
  const auto added = [&](int k) { return float2{v[k / 2][k % 2], v[k / 2][2 + k % 2]}; };
  float2 total = added(at(0));
#pragma unroll
  for (int k = 1; k < 8; ++k) total = multiply_add(p.chunk, total, added(at(k)));
  const auto shift = [&](float2 x, int delta) {
    return Reverse ? float2{__shfl_down_sync(~0u, x.x, delta), __shfl_down_sync(~0u, x.y, delta)}
                   : float2{__shfl_up_sync(~0u, x.x, delta), __shfl_up_sync(~0u, x.y, delta)};
  };
  total = multiply_add(p.step[0], shift(total, 1), total);
  total = multiply_add(p.step[1], shift(total, 2), total);
  float2 before = shift(total, 1);
  if (q == (Reverse ? 3 : 0)) before = {0.f, 0.f};
  constexpr int last = Reverse ? 0 : 3;
  const float2 all{__shfl_sync(~0u, total.x, last, 4), __shfl_sync(~0u, total.y, last, 4)};
  float2 state = multiply_add(p.prefix, carry, before);
  carry = multiply_add(p.tile, carry, all);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int c = at(k);
    const float2 here = added(c);
    v[c / 2][c % 2] = state.x, v[c / 2][2 + c % 2] = state.y;
    if (k < 7) state = multiply_add(p.chunk, state, here);
  }
}

/// Columns as pairs of bf16: the first rows' and the second rows' of eight columns each.
__device__ inline void pack_columns(const TurnedSums& v, unsigned (&words)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    words[2 * j] = pack_bf16(v[j][0], v[j][1]);
    words[2 * j + 1] = pack_bf16(v[j][2], v[j][3]);
  }
}
/// `place`: turned_lane_place in the tile.
__device__ inline void store_columns(unsigned place, const unsigned (&words)[8]) {
  store_tiles<true>(place, words[0], words[1], words[2], words[3]);
  store_tiles<true>(place + 2048, words[4], words[5], words[6], words[7]);
}
__device__ inline void load_columns(unsigned (&words)[8], unsigned place) {
  unsigned half[4];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    load_columns_of_tiles(half, place + 2048 * h);
#pragma unroll
    for (int i = 0; i < 4; ++i) words[4 * h + i] = half[i];
  }
}

/// v += scale · the columns that load_columns has read.
__device__ inline void add_scaled_columns(TurnedSums& v, float scale, const unsigned (&words)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      v[j][2 * h] += scale * low_of(words[2 * j + h]);
      v[j][2 * h + 1] += scale * high_of(words[2 * j + h]);
    }
}

/// This thread's two runs of eight positions of a tile: 8·thread and 1024 further on.
struct TurnedRuns {
  unsigned place[2];  // bytes of the tile in shared memory

  __device__ explicit TurnedRuns(int thread) {
    place[0] = turned_place(thread / 8, thread % 8);
    place[1] = (place[0] + 512) ^ 64;  // sixteen chunks on
  }
  __device__ unsigned place_of(int i) const { return i == 0 ? place[0] : place[1]; }
  // Parts of tiles take loops, which are not unrolled into predicates of the whole ones' accesses.

  /// Starts the copy of a tile, the first run of which is at `from`; of the tile `left` positions
  /// are there, then zeros.
  __device__ void copy(unsigned to, const BFloat16* from, int left) const {
    if (left >= kTurnedTile) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to + place[i]),
                     "l"(from + 1024 * i)
                     : "memory");
      return;
    }
    const int first = 8 * (threadIdx.x % kTurnedThreads);
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const int bytes = max(0, min(16, 2 * (left - first - 1024 * i)));
      asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to + place_of(i)),
                   "l"(bytes > 0 ? from + 1024 * i : from), "r"(bytes)
                   : "memory");
    }
  }
  __device__ void write(BFloat16* to, unsigned from, int left) const {
    if (left >= kTurnedTile) {
      uint4 words[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) words[i] = load_run(from + place[i]);
#pragma unroll
      for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(to + 1024 * i) = words[i];
      return;
    }
    const int first = 8 * (threadIdx.x % kTurnedThreads);
#pragma unroll 1
    for (int i = 0; i < 2; ++i)
      store_words(to + 1024 * i, left - first - 1024 * i, false, load_run(from + place_of(i)));
  }
};

}  // namespace ssm::cuda::device
