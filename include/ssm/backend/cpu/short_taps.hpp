// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/channel_units.hpp"
#include "ssm/backend/cpu/exponential.hpp"
#include "ssm/backend/cpu/positions.hpp"
#include "ssm/op/short_convolution.hpp"

namespace ssm::cpu {

/// The taps of ShortConvolution and behind them the bias, [W + 1][lanes] per block of channels.
template <class T, class Arch>
class ShortTaps {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index largest_group = 64;  // blocks that take turns: a page of each row

  template <class Frame>
  ShortTaps(Frame& frame, const ssm::ShortConvolution<T, HostSpace>& a)
      : width_(a.weight.extent(1)),
        channels_(a.weight.extent(0)),
        memory_(frame.template tensor<T>(blocks(), width_ + 1, lanes)) {
    std::fill_n(memory_.data(), memory_.size(), T{0});
    for (Index d = 0; d < channels_; ++d) {
      T* to = memory_.data() + d / lanes * (width_ + 1) * lanes + d % lanes;
      for (Index w = 0; w < width_; ++w) to[w * lanes] = a.weight(d, w);
      if (a.bias) to[width_ * lanes] = a.bias(d);
    }
  }

  Index width() const { return width_; }
  Index blocks() const { return (channels_ + lanes - 1) / lanes; }
  Index count(Index block) const { return std::min(lanes, channels_ - block * lanes); }
  const T* of(Index block) const { return memory_.data() + block * (width_ + 1) * lanes; }

 private:
  Index width_, channels_;
  View<T, 3> memory_;
};

/// The inputs of one block of channels of one sequence; before its first position lies the initial
/// state, [W][lanes].
template <class T, class Arch>
class ShortInputs {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;

  ShortInputs(const ssm::ShortConvolution<T, HostSpace>& a, Sequence s, Index block, Index count,
              const T* state)
      : x_(a.x, s.batch, block * lanes, count),
        state_(state + a.weight.extent(1) * lanes),
        begin_(s.begin) {}

  /// Where all positions from t on are inputs.
  [[gnu::always_inline]] Register input(Index t) const { return x_.load(t); }
  Register operator()(Index t) const {
    return t >= begin_ ? x_.load(t) : Register::load_aligned(state_ + (t - begin_) * lanes);
  }

 private:
  Positions<const T, Arch> x_;
  const T* state_;
  Index begin_;
};

}  // namespace ssm::cpu
