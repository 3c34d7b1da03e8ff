// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/causal_convolution_cut.hpp"  // longest_sequence
#include "ssm/backend/cpu/lane_filter.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/causal_convolution.hpp"

namespace ssm::cpu {

/// CausalConvolution term by term, with a channel in each lane.
template <class T, class Arch>
class CausalConvolutionDirect {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::CausalConvolution<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Taps taps(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    const auto scratch = frame.template tensor<T>(threads, taps.padded() + chunk, lanes);
    parallel(threads, sequences * taps.blocks(), 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Sequence s = sequence_at(i / taps.blocks(), a.x.extent(1), a.segments);
        const Operands x(a, s.batch, i % taps.blocks());
        const Positions<T, Arch> y = x.of(a.y);
        const Index terms = taps.reaching(s);
        for (Index first = s.begin; first < s.end; first += chunk) {
          const Index end = std::min(s.end, first + chunk);
          T* staged = &scratch(worker, 0, 0);
          stage<T, Arch>([&](Index t) { return x.input(t); }, first - terms, first + chunk, s.begin,
                         end, staged);
          for_each_tile<-1>(
              staged + terms * lanes, taps.at(x.block()), terms, first, end,
              [&](Index t, const Register& sum) { y.store(t, x.gated_output(t, sum)); });
        }
      }
    });
  }

  template <class Ctx>
  static void run_backward(Ctx& ctx, const ssm::CausalConvolutionBackward<T, HostSpace>& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Taps taps(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    constexpr Index wanted_units =
        32;  // slots do not depend on the threads, so neither do the sums
    const Index slots = std::clamp<Index>(wanted_units / std::max<Index>(1, taps.blocks()), 1,
                                          std::max<Index>(1, sequences));
    const auto sums = frame.template tensor<T>(slots, taps.blocks(), taps.padded(), lanes);
    std::fill_n(sums.data(), sums.size(), T{0});
    const auto scratch = frame.template tensor<T>(threads, 2 * taps.padded() + 3 * chunk, lanes);
    parallel(threads, slots * taps.blocks(), 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index slot = i / taps.blocks();
        const Index block = i % taps.blocks();
        for (Index s = sequences * slot / slots; s < sequences * (slot + 1) / slots; ++s)
          backward_block(g, taps, sequence_at(s, a.x.extent(1), a.segments), block,
                         &scratch(worker, 0, 0), &sums(slot, block, 0, 0));
      }
    });
    for (Index d = 0; d < a.x.extent(2); ++d)
      for (Index slot = 0; slot < slots; ++slot) {
        if (g.dskip) g.dskip(d) += sums(slot, d / lanes, 0, d % lanes);
        if (!g.dkernel) continue;
        for (Index s = 0; s < taps.size(); ++s)
          g.dkernel(d, s) += sums(slot, d / lanes, s, d % lanes);
      }
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index chunk = 128;  // positions staged at a time
  static constexpr int tile = sizeof(Register) == 64 ? 8 : 4;

  /// The kernels, [K][lanes] per block of channels, the skip added to the first term.
  class Taps {
   public:
    template <class Frame>
    Taps(Frame& frame, const Threads& threads, const ssm::CausalConvolution<T, HostSpace>& a)
        : size_(std::min(a.kernel.extent(1), longest_sequence(a.x.extent(1), a.segments))),
          padded_(whole_filter_groups(std::max<Index>(1, size_))),
          channels_(a.x.extent(2)),
          memory_(frame.template tensor<T>(blocks(), padded_, lanes)) {
      std::fill_n(memory_.data(), memory_.size(), T{0});
      parallel(threads, channels_, 16, [&](Range range, int) {
        for (Index d = range.begin; d < range.end; ++d) {
          for (Index s = 0; s < size_; ++s) memory_(d / lanes, s, d % lanes) = a.kernel(d, s);
          if (a.skip) memory_(d / lanes, 0, d % lanes) += a.skip(d);
        }
      });
    }
    Index size() const { return size_; }
    Index padded() const { return padded_; }
    Index blocks() const { return (channels_ + lanes - 1) / lanes; }
    const T* at(Index block) const { return &memory_(block, 0, 0); }
    /// Terms that meet anything but zeros in a sequence.
    Index reaching(Sequence s) const {
      return std::min(padded_, whole_filter_groups(s.end - s.begin));
    }

   private:
    Index size_, padded_, channels_;
    View<T, 3> memory_;
  };

  /// One block of channels of one batch of every operand.
  class Operands {
   public:
    Operands(const ssm::CausalConvolution<T, HostSpace>& a, Index batch, Index block)
        : batch_(batch),
          block_(block),
          count_(std::min(lanes, a.x.extent(2) - block * lanes)),
          x_(of(a.x)),
          gate_in_(of(a.gate_in)),
          gate_out_(of(a.gate_out)) {}

    template <class U>
    Positions<U, Arch> of(const View<U, 3>& view) const {
      return Positions<U, Arch>(view, batch_, block_ * lanes, count_);
    }
    Index block() const { return block_; }
    Register x(Index t) const { return x_.load(t); }
    Register gated_input(Index t, const Register& value) const {
      return gate_in_ ? value * gate_in_.load(t) : value;
    }
    Register gated_output(Index t, const Register& value) const {
      return gate_out_ ? value * gate_out_.load(t) : value;
    }
    Register input(Index t) const { return gated_input(t, x(t)); }

   private:
    Index batch_, block_, count_;
    Positions<const T, Arch> x_, gate_in_, gate_out_;
  };

  /// finish(t, Σ_s tap[s] · row[t − first + Direction·s]) for first ≤ t < end.
  template <int Direction, class F>
  static void for_each_tile(const T* row, const T* tap, Index terms, Index first, Index end,
                            F&& finish) {
    for (Index t = first; t < end; t += tile) {
      Register sums[tile];
      unrolled<tile>([&](auto j) { sums[j] = Register(T{0}); });
      add_filtered<Direction, tile, T, Arch>(row + (t - first) * lanes, tap, terms, sums);
      for (Index j = 0; j < std::min<Index>(tile, end - t); ++j) finish(t + j, sums[j]);
    }
  }

  static void backward_block(const ssm::CausalConvolutionBackward<T, HostSpace>& g,
                             const Taps& taps, Sequence s, Index block, T* inputs, T* sums) {
    const Operands x(g.forward, s.batch, block);
    const auto dy = x.of(g.dy);
    const auto dx = x.of(g.dx), dgate_in = x.of(g.dgate_in), dgate_out = x.of(g.dgate_out);
    const Index terms = taps.reaching(s);
    T* gradients = inputs + (taps.padded() + chunk) * lanes;
    for (Index first = s.begin; first < s.end; first += chunk) {
      const Index end = std::min(s.end, first + chunk);
      stage<T, Arch>([&](Index t) { return x.input(t); }, first - terms, first + chunk, s.begin,
                     end, inputs);
      stage<T, Arch>([&](Index t) { return x.gated_output(t, dy.load(t)); }, first,
                     first + chunk + terms + tile, first, s.end, gradients);
      add_correlation<T, Arch>(inputs + terms * lanes, gradients, whole_filter_groups(end - first),
                               terms, sums);
      if (dgate_out)
        for_each_tile<-1>(
            inputs + terms * lanes, taps.at(block), terms, first, end,
            [&](Index t, const Register& sum) { dgate_out.store(t, dy.load(t) * sum); });
      if (dx || dgate_in)
        for_each_tile<1>(gradients, taps.at(block), terms, first, end,
                         [&](Index t, const Register& du) {
                           if (dgate_in) dgate_in.store(t, du * x.x(t));
                           if (dx) dx.store(t, x.gated_input(t, du));
                         });
    }
  }
};

}  // namespace ssm::cpu
