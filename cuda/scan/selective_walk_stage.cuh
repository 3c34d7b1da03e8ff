// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/tensor_core.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda::device {

/// Rows of a tile of the walk back on their way to shared memory, 16 bytes at a time: of at most 16
/// states. Every thread uses what it brings: eight channels of a position, and eight states of B
/// or C.
template <class T>
struct WalkStage {
  static constexpr int tile = static_cast<int>(walk_tile(16));
  static constexpr int piece = 16 / static_cast<int>(sizeof(T));  // numbers of a copy
  static_assert(kWalkThreads == tile * 4 && kWalkChannels == 32);

  __device__ void set_biases(int thread, const SelectiveOperands<T>& a, Index group) {
    if (thread >= kWalkChannels) return;
    const Index d = group * kWalkChannels + thread;
    biases[thread] = d < a.channels ? value_or(0.0f, a.dt_bias, d) : 0.0f;
  }
  /// Begins copies of the `count` positions from t0 on, zeros behind them.
  template <bool HasGate>
  __device__ void bring(int thread, const SelectiveWalkBack<T>& walk, Index b, Index group,
                        Index t0, int count) {
    const auto& a = walk.a;
    const int row = thread / 4, first = thread % 4 * 8;
    const Index d = group * kWalkChannels + first;
    const auto copy = [&](T* to, const Operand<const T, 3>& x, int t, Index c, Index end) {
      const T* const from = x.data + b * x.strides[0] + (t0 + t) * x.strides[1] + c;
#pragma unroll
      for (int p = 0; p < 8; p += piece) {
        const bool exists = t < count && c + p < end;
        copy_async_or_zero(to + p, exists ? from + p : x.data, exists);
      }
    };
    copy(&rows[0][row][first], a.u, row, d, a.channels);
    copy(&rows[1][row][first], a.dt, row, d, a.channels);
    if constexpr (HasGate) copy(&rows[2][row][first], a.gate, row, d, a.channels);
    copy(&rows[3][row][first], walk.dy, row, d, a.channels);
    const int t = thread / 2 % tile, n = thread % 2 * 8;
    copy(&states[thread / 64][t][n], thread < 64 ? a.B : a.C, t, n, a.states);
  }
  /// write_pair(position, channel, is one of `count`, two biases, Δ, u, gate, dy of two channels)
  /// of the own channels; B and C become floats.
  template <bool HasGate, class Write>
  __device__ void use(int thread, int count, Write write_pair, float4 (&Bs)[tile][4],
                      float4 (&Cs)[tile][4]) const {
    using Pair = RawNumbers<T, 2>;
    const int row = thread / 4, first = thread % 4;
    // In an order in which threads meet in no bank.
    const int turn = first / 2 + row % 2 * 2 + row / 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = first * 8 + (i + turn) % 4 * 2;
      const auto pair = [&](int of) { return *reinterpret_cast<const Pair*>(&rows[of][row][c]); };
      write_pair(row, c, row < count, *reinterpret_cast<const float2*>(biases + c), pair(1),
                 pair(0), HasGate ? pair(2) : Pair{}, pair(3));
    }
    const int t = thread / 2 % tile, n = thread % 2 * 8;
    const auto own = *reinterpret_cast<const RawNumbers<T, 8>*>(&states[thread / 64][t][n]);
    write_states(thread < 64 ? &Bs[t][n / 4] : &Cs[t][n / 4], own);
  }

  alignas(16) T rows[4][tile][kWalkChannels];  // u, Δ, gate, dy
  alignas(16) T states[2][tile][16];           // B, C
  alignas(8) float biases[kWalkChannels];
};

/// Whether a call's rows can be brought that way.
template <class T>
bool has_staged_rows(const SelectiveWalkBack<T>& walk) {
  const auto& a = walk.a;
  constexpr int piece = WalkStage<T>::piece;
  return a.states <= 16 && has_raw_numbers<piece>(a.u, a.channels) &&
         has_raw_numbers<piece>(a.dt, a.channels) && has_raw_numbers<piece>(a.gate, a.channels) &&
         has_raw_numbers<piece>(walk.dy, a.channels) && has_raw_numbers<piece>(a.B, a.states) &&
         has_raw_numbers<piece>(a.C, a.states);
}

}  // namespace ssm::cuda::device
