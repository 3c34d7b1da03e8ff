// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/positions.hpp"

namespace ssm::cpu {

/// Taps, outputs and positions come in groups of this many; what is missing is zero.
inline constexpr Index filter_group = 8;
constexpr Index whole_filter_groups(Index n) {
  return (n + filter_group - 1) / filter_group * filter_group;
}

/// value(t) for begin ≤ t < end into consecutive registers of scratch; zero outside first … last−1.
/// Scratch keeps the kernels off the operand's stride, at which every position may fall into the
/// same cache set.
template <class T, class Arch, class F>
void stage(F&& value, Index begin, Index end, Index first, Index last, T* to) {
  constexpr Index lanes = lane_count<T, Arch>;
  for (Index t = begin; t < end; ++t, to += lanes)
    (t >= first && t < last ? value(t) : Batch<T, Arch>(T{0})).store_aligned(to);
}

/// sums[j] += Σ_{s<taps} tap[s] · row[j + Direction·s] for j < Tile; rows and taps are registers in
/// scratch.
template <int Direction, int Tile, class T, class Arch>
void add_filtered(const T* row, const T* tap, Index taps, Batch<T, Arch> (&sums)[Tile]) {
  using Register = Batch<T, Arch>;
  constexpr Index lanes = lane_count<T, Arch>;
  constexpr int depth =
      4;               // taps a window of rows serves: each row is loaded once for four products
  Register sum[Tile];  // a copy, which the compiler knows nobody else to see
  expanded<Tile>([&](auto... j) { ((sum[j] = sums[j]), ...); });
  for (Index s = 0; s < taps; s += depth, tap += depth * lanes) {
    const T* window = row + (Direction > 0 ? s : -s - (depth - 1)) * lanes;
    Register rows[Tile + depth - 1];
    expanded<Tile + depth - 1>(
        [&](auto... k) { ((rows[k] = Register::load_aligned(window + k * lanes)), ...); });
    unrolled<depth>([&](auto i) {
      const Register weight = Register::load_aligned(tap + i * lanes);
      constexpr int first = Direction > 0 ? i() : depth - 1 - i();
      expanded<Tile>(
          [&](auto... j) { ((sum[j] = xsimd::fma(weight, rows[first + j], sum[j])), ...); });
    });
  }
  expanded<Tile>([&](auto... j) { ((sums[j] = sum[j]), ...); });
}

/// sums[s] += Σ_{t<length} gradient[t] · row[t − s] for s < taps: a filter's gradient. length and
/// taps are whole groups.
template <class T, class Arch>
void add_correlation(const T* row, const T* gradient, Index length, Index taps, T* sums) {
  using Register = Batch<T, Arch>;
  constexpr Index lanes = lane_count<T, Arch>;
  constexpr int width = 8;
  constexpr int depth = 4;
  for (Index s = 0; s < taps; s += width) {
    Register sum[width];
    expanded<width>(
        [&](auto... i) { ((sum[i] = Register::load_aligned(sums + (s + i) * lanes)), ...); });
    for (Index t = 0; t < length; t += depth) {
      const T* window = row + (t - s - (width - 1)) * lanes;
      Register rows[width + depth - 1];
      expanded<width + depth - 1>(
          [&](auto... k) { ((rows[k] = Register::load_aligned(window + k * lanes)), ...); });
      unrolled<depth>([&](auto j) {
        const Register g = Register::load_aligned(gradient + (t + j) * lanes);
        constexpr int last = j() + width - 1;
        expanded<width>(
            [&](auto... i) { ((sum[i] = xsimd::fma(g, rows[last - i], sum[i])), ...); });
      });
    }
    expanded<width>([&](auto... i) { (sum[i].store_aligned(sums + (s + i) * lanes), ...); });
  }
}

}  // namespace ssm::cpu
