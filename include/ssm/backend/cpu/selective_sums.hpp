// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/selective_modes.hpp"

namespace ssm::cpu {

/// What SelectiveScan's gradient gathers. Sums over sequences: of A, skip and dt_bias,
/// [N + 2][lanes] per slot and block. Sums over channels: of B and C, [B, L, N] per group of
/// blocks. Both are added up in order.
template <class T, class Arch>
class SelectiveSums {
 public:
  using Register = Batch<T, Arch>;
  using Modes = SelectiveModes<T, Arch>;
  static constexpr Index lanes = Modes::lanes;

  template <class Frame>
  SelectiveSums(Frame& frame, const Modes& modes, const ChannelUnits& units, Index batch,
                Index length)
      : modes_(modes),
        units_(units),
        parameters_(
            frame.template tensor<T>(units.slots, modes.blocks(), modes.padded() + 2, lanes)),
        shared_(frame.template tensor<T>(units.groups, batch, length, 2 * modes.size())) {
    std::fill_n(parameters_.data(), parameters_.size(), T{0});
  }

  /// Where a slot adds a block's sums: of A first, then of the skip, then of the bias.
  T* parameters(Index slot, Index block) const {
    return parameters_.data() + (slot * modes_.blocks() + block) * (modes_.padded() + 2) * lanes;
  }
  /// Where a group writes the gradients of B, then of C, of one position.
  T* shared(Index group, Index batch, Index t) const {
    return shared_.data() +
           ((group * shared_.extent(1) + batch) * shared_.extent(2) + t) * shared_.extent(3);
  }

  void add_to(const Threads& threads, const ssm::SelectiveScanBackward<T, HostSpace>& g) const {
    constexpr Index grain = 16;
    parallel(threads, modes_.blocks(), grain, [&](Range range, int) {
      for (Index block = range.begin; block < range.end; ++block) add_parameters(g, block);
    });
    if (!g.dB && !g.dC) return;
    const Index length = shared_.extent(2);
    parallel(threads, shared_.extent(1) * length, grain, [&](Range range, int) {
      for (Index i = range.begin; i < range.end; ++i) {
        add_shared(g.accumulate, g.dB, i / length, i % length, 0);
        add_shared(g.accumulate, g.dC, i / length, i % length, modes_.size());
      }
    });
  }

 private:
  void add_parameters(const ssm::SelectiveScanBackward<T, HostSpace>& g, Index block) const {
    T* total = parameters(0, block);
    const Index size = (modes_.padded() + 2) * lanes;
    for (Index slot = 1; slot < units_.slots; ++slot) {
      const T* from = parameters(slot, block);
      for (Index i = 0; i < size; ++i) total[i] += from[i];
    }
    const T* skip = total + modes_.padded() * lanes;
    for (Index lane = 0; lane < modes_.count(block); ++lane) {
      const Index d = block * lanes + lane;
      if (g.dskip) g.dskip(d) += skip[lane];
      if (g.ddt_bias) g.ddt_bias(d) += skip[lanes + lane];
      if (g.dA)
        for (Index n = 0; n < modes_.size(); ++n) g.dA(d, n) += total[n * lanes + lane];
    }
  }

  void add_shared(bool accumulate, const View<T, 3>& to, Index b, Index t, Index first) const {
    if (!to) return;
    for (Index n = 0; n < modes_.size(); ++n) {
      T sum = accumulate ? to(b, t, n) : T{0};
      for (Index group = 0; group < units_.groups; ++group) sum += shared(group, b, t)[first + n];
      to(b, t, n) = sum;
    }
  }

  const Modes& modes_;
  const ChannelUnits& units_;
  View<T, 4> parameters_, shared_;
};

}  // namespace ssm::cpu
