// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/lane_filter.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/shift_convolution.hpp"

namespace ssm::cpu {

/// The taps of ShiftConvolution's filter, [N][lanes] per block of channels, computed once per call:
///   taps[s] = Σ_{j<N−s} B[j]·C[j+s], the skip added to taps[0]
/// with B and C in the same order beside them. Each is padded with zeros to a whole number of
/// groups, and has a margin of zeros at both ends, so that filters may run over its ends.
template <class T, class Arch>
class ShiftFilter {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index group = filter_group;
  static constexpr Index margin = 16;  // registers

  template <class Frame>
  ShiftFilter(Frame& frame, const Threads& threads, const ssm::ShiftConvolution<T, HostSpace>& a)
      : a_(a),
        size_(a.B.extent(1)),
        padded_(whole_filter_groups(size_)),
        memory_(frame.template tensor<T>(blocks(), 3, padded_ + 2 * margin, lanes)) {
    parallel(threads, blocks(), 1, [&](Range range, int) {
      for (Index block = range.begin; block < range.end; ++block) prepare(block);
    });
  }

  Index size() const { return size_; }
  Index padded() const { return padded_; }
  Index rows() const { return padded_ + 2 * margin; }  // registers of an array with its margins
  Index blocks() const { return (a_.x.extent(2) + lanes - 1) / lanes; }
  Index count(Index block) const { return std::min(lanes, a_.x.extent(2) - block * lanes); }

  const T* taps(Index block) const { return &memory_(block, 0, margin, 0); }
  const T* B(Index block) const { return &memory_(block, 1, margin, 0); }
  const T* C(Index block) const { return &memory_(block, 2, margin, 0); }

  /// to[n] += Σ_{s<taps} tap[s] · row[n + Direction·s] for n < N, where `row` is zero outside 0 …
  /// N−1.
  template <int Direction>
  void add_all(const T* row, const T* tap, Index taps, T* to) const {
    for (Index n = 0; n < padded_; n += group) {
      Register sums[group];
      expanded<group>(
          [&](auto... i) { ((sums[i] = Register::load_aligned(to + (n + i) * lanes)), ...); });
      const Index reach =
          Direction > 0 ? padded_ - n : n + group;  // beyond it there are zeros only
      add_filtered<Direction, int{group}, T, Arch>(row + n * lanes, tap, std::min(taps, reach),
                                                   sums);
      expanded<group>([&](auto... i) { (sums[i].store_aligned(to + (n + i) * lanes), ...); });
    }
  }

 private:
  void prepare(Index block) {
    std::fill_n(&memory_(block, 0, 0, 0), 3 * rows() * lanes, T{0});
    T* taps = &memory_(block, 0, margin, 0);
    for (Index lane = 0; lane < count(block); ++lane) {
      const Index d = block * lanes + lane;
      for (Index n = 0; n < size_; ++n) {
        memory_(block, 1, margin + n, lane) = a_.B(d, n);
        memory_(block, 2, margin + n, lane) = a_.C(d, n);
      }
      if (a_.skip) taps[lane] = a_.skip(d);
    }
    add_all<1>(C(block), B(block), padded_, taps);
  }

  const ssm::ShiftConvolution<T, HostSpace>& a_;
  Index size_, padded_;
  View<T, 4> memory_;
};

}  // namespace ssm::cpu
