// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernel/quick_functions.cuh"
#include "scan/selective_walk.cuh"

namespace ssm::cuda::device {

constexpr int kWalkThreads = 4 * static_cast<int>(kWalkChannels);

/// A thread's part: a quarter of the states of one channel. Lanes 8 apart share the channel, so
/// that neighbors read the same of B and C.
struct WalkThread {
  __device__ explicit WalkThread(int thread = static_cast<int>(threadIdx.x))
      : id(thread), warp(id / 32), lane(id % 32), quarter(lane / 8), channel(warp * 8 + lane % 8) {}
  int id, warp, lane, quarter, channel;
};

/// `Count` neighboring numbers as they lie in memory. Half types are taken apart where they are
/// used: sooner would wait for them.
template <class T, int Count>
struct RawNumbers {
  static constexpr int count = Count * static_cast<int>(sizeof(T)) / 4;

  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4)
      return __uint_as_float(words[i]);
    else
      return widened(T::from_bits(static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)))));
  }
  __device__ void set(int i, T value) {
    if constexpr (sizeof(T) == 4)
      words[i] = __float_as_uint(value);
    else
      words[i / 2] |= static_cast<unsigned>(value.bits()) << (16 * (i % 2));
  }

  alignas(count < 4 ? 4 * count : 16) unsigned words[count] = {};
};

/// Whether runs of `Count` numbers along the last axis can be read as a whole.
template <int Count, class T>
bool has_raw_numbers(const Operand<T, 3>& x, Index extent) {
  constexpr std::uintptr_t aligned = alignof(RawNumbers<std::remove_const_t<T>, Count>);
  constexpr Index step = static_cast<Index>(aligned / sizeof(T));
  return !x ||
         (extent % Count == 0 && x.strides[2] == 1 && x.strides[1] % step == 0 &&
          x.strides[0] % step == 0 && reinterpret_cast<std::uintptr_t>(x.data) % aligned == 0);
}

/// Reads `Count` neighbors along the last axis, zero where there are none, of positions of a
/// sequence.
template <class T, int Count>
struct RawReader {
  using Raw = RawNumbers<T, Count>;

  /// From element `first` of `extent` on.
  __device__ RawReader(const Operand<const T, 3>& x, Index b, Index first, Index extent,
                       bool are_whole)
      : from(x ? &x(b, Index{0}, first) : nullptr),
        row(x.strides[1]),
        next(x.strides[2]),
        count(!x || first >= extent    ? 0
              : extent - first < Count ? static_cast<int>(extent - first)
                                       : Count),
        whole(are_whole) {}
  __device__ Raw operator()(Index t, bool exists) const {
    Raw raw;
    if (!exists || count == 0) return raw;
    const T* const at = from + t * row;
    if (whole) return *reinterpret_cast<const Raw*>(at);
#pragma unroll
    for (int i = 0; i < Count; ++i)
      if (i < count) raw.set(i, at[i * next]);
    return raw;
  }

  /// Those of every eighth of the `positions` from t0 on, beginning with number `first`.
  template <int Rounds>
  __device__ void read(Index t0, int first, int positions, Raw (&raw)[Rounds]) const {
    if (!whole) {
#pragma unroll
      for (int i = 0; i < Rounds; ++i)
        raw[i] = (*this)(t0 + first + 8 * i, first + 8 * i < positions);
      return;
    }
    const T* at = from + (t0 + first) * row;
    const int end = count > 0 ? positions : 0;
#pragma unroll
    for (int i = 0; i < Rounds; ++i, at += 8 * row) {
      raw[i] = Raw{};
      if (first + 8 * i < end) raw[i] = *reinterpret_cast<const Raw*>(at);
    }
  }

  const T* from;
  Index row, next;
  int count;
  bool whole;
};

/// What of a call's operands can be read as a whole.
struct WholeReads {
  bool channels;  // pairs of channels
  bool states;    // a lane's states of B and C
};
template <int S, class T>
WholeReads whole_reads(const SelectiveOperands<T>& a) {
  return {has_raw_numbers<2>(a.u, a.channels) && has_raw_numbers<2>(a.dt, a.channels) &&
              has_raw_numbers<2>(a.gate, a.channels),
          has_raw_numbers<S>(a.B, a.states) && has_raw_numbers<S>(a.C, a.states)};
}

template <class T, int S>
__device__ inline void write_states(float4* to, const RawNumbers<T, S>& values) {
#pragma unroll
  for (int j = 0; j < S; j += 4)
    to[j / 4] = {values[j], values[j + 1], values[j + 2], values[j + 3]};
}
template <int S>
__device__ inline void load_floats(const float4* from, float (&values)[S]) {
#pragma unroll
  for (int j = 0; j < S; j += 4) {
    const float4 four = from[j / 4];
    values[j] = four.x, values[j + 1] = four.y, values[j + 2] = four.z, values[j + 3] = four.w;
  }
}
template <int S>
__device__ inline void store_floats(float4* to, const float (&values)[S]) {
#pragma unroll
  for (int j = 0; j < S; j += 4)
    to[j / 4] = {values[j], values[j + 1], values[j + 2], values[j + 3]};
}

/// Of four positions' numbers, summed over the four lanes of a channel, that of position `quarter`.
__device__ inline float sum_of_quarters(const float (&s)[4], int quarter) {
  constexpr unsigned all = 0xffffffffu;
  const bool odd = (quarter & 1) != 0, high = (quarter & 2) != 0;
  const float u = __shfl_xor_sync(all, odd ? s[0] : s[1], 8) + (odd ? s[1] : s[0]);
  const float v = __shfl_xor_sync(all, odd ? s[2] : s[3], 8) + (odd ? s[3] : s[2]);
  return __shfl_xor_sync(all, high ? u : v, 16) + (high ? v : u);
}

/// Where a block's thread keeps the states that enter the i-th walk_keep positions of a chunk.
template <class Kept, int S>
__device__ inline Kept* kept_place(Kept* kept, Index length, Index place, Index i, Index groups,
                                   Index group, int thread) {
  constexpr Index positions = walk_keep(4 * S);
  const Index all = (length + positions - 1) / positions;
  return kept + (((place * all + i) * groups + group) * kWalkThreads + thread) * S;
}

/// A thread's states and their rates (per ln 2) at the beginning of a walk along channel d of a
/// chunk, from state `first` on.
template <WalkFor Purpose, class T, int S>
__device__ inline void enter_walk(const SelectiveWalk<T>& walk, const Chunk& chunk, Index d,
                                  Index first, float (&rate)[S], float (&state)[S]) {
  const auto& a = walk.a;
#pragma unroll
  for (int j = 0; j < S; ++j) {
    rate[j] = state[j] = 0;
    if (d >= a.channels || first + j >= a.states) continue;
    rate[j] = a.A(d, first + j) * 1.4426950408889634f;
    if (Purpose != WalkFor::outputs && Purpose != WalkFor::kept) continue;
    state[j] = a.chunking.whole ? value_or(0.0f, a.initial_state, chunk.s.row, d, first + j)
                                : walk.entries[a.at(chunk.place, first + j, d)];
  }
}
/// What is kept of a thread's states, and of the sum of its steps, at the end of the walk.
template <WalkFor Purpose, class T, int S>
__device__ inline void leave_walk(const SelectiveWalk<T>& walk, const Chunk& chunk, Index d,
                                  const WalkThread& me, const float (&state)[S], float steps) {
  const auto& a = walk.a;
  if (d >= a.channels || Purpose == WalkFor::kept) return;
#pragma unroll
  for (int j = 0; j < S; ++j) {
    const Index n = me.quarter * S + j;
    if (n >= a.states) continue;
    if (Purpose != WalkFor::outputs)
      walk.entries[a.at(chunk.place, n, d)] = state[j];
    else if (a.chunking.whole && walk.final_state)
      walk.final_state(chunk.s.row, d, n) = state[j];
  }
  if (Purpose == WalkFor::ends && me.quarter == 0) walk.steps[chunk.place * a.channels + d] = steps;
}

}  // namespace ssm::cuda::device
