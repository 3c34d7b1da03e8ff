// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/channel_units.hpp"
#include "ssm/backend/cpu/exponential.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/positions.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm::cpu {

/// What SelectiveScan's kernels share for a whole call: A·log₂e, [N][lanes] per block of channels,
/// and B and C with their states adjacent. N is padded with zeros to a whole number of groups
/// everywhere.
template <class T, class Arch>
class SelectiveModes {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr int group = 4;  // states at a time: they hide each other's latency
  // Blocks that take turns: their rows stay within a few pages, their states within the
  // second-level cache.
  static constexpr Index largest_group = 16;

  template <class Frame>
  SelectiveModes(Frame& frame, const Threads& threads, const ssm::SelectiveScan<T, HostSpace>& a)
      : a_(a),
        size_(a.A.extent(1)),
        padded_((size_ + group - 1) / group * group),
        blocks_((a.A.extent(0) + lanes - 1) / lanes),
        rates_(frame.template tensor<T>(blocks_, padded_, lanes)),
        B_(with_adjacent_states(frame, a.B)),
        C_(with_adjacent_states(frame, a.C)) {
    parallel(threads, blocks_, 65536 / (lanes * std::max<Index>(1, padded_)),
             [&](Range range, int) {
               for (Index block = range.begin; block < range.end; ++block) prepare(block);
             });
  }

  Index size() const { return size_; }
  Index padded() const { return padded_; }
  Index blocks() const { return blocks_; }
  Index count(Index block) const { return std::min(lanes, a_.A.extent(0) - block * lanes); }
  const T* rates(Index block) const { return rates_.data() + block * padded_ * lanes; }
  const View<const T, 3>& B() const { return B_; }
  const View<const T, 3>& C() const { return C_; }

  /// One number a channel; zero where there is no view.
  Register of_channels(const View<const T, 1>& view, Index block) const {
    if (!view) return Register(T{0});
    return gather<T, Arch>(view.data() + block * lanes * view.stride(0), view.stride(0),
                           count(block));
  }

 private:
  /// The view itself where its states already lie as wanted.
  template <class Frame>
  View<const T, 3> with_adjacent_states(Frame& frame, const View<const T, 3>& view) const {
    if (size_ == padded_ && view.stride(2) == 1) return view;
    const auto copy = frame.template tensor<T>(view.extent(0), view.extent(1), padded_);
    for (Index b = 0; b < view.extent(0); ++b)
      for (Index t = 0; t < view.extent(1); ++t)
        for (Index n = 0; n < padded_; ++n) copy(b, t, n) = n < size_ ? view(b, t, n) : T{0};
    return copy;
  }

  void prepare(Index block) const {
    T* to = rates_.data() + block * padded_ * lanes;
    std::fill_n(to, padded_ * lanes, T{0});
    for (Index lane = 0; lane < count(block); ++lane)
      for (Index n = 0; n < size_; ++n)
        to[n * lanes + lane] = a_.A(block * lanes + lane, n) * static_cast<T>(log2_of_e);
  }

  const ssm::SelectiveScan<T, HostSpace>& a_;
  Index size_, padded_, blocks_;
  View<T, 3> rates_;
  View<const T, 3> B_, C_;
};

}  // namespace ssm::cpu
