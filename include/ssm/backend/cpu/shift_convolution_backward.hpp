// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/shift_filter.hpp"

namespace ssm::cpu {

/// The gradient of ShiftConvolution with a channel in each lane: dx by the filter run backwards in
/// time, the taps' gradient by correlation, then B and C from the taps; the terms with states are
/// added where they reach.
template <class T, class Arch>
class ShiftConvolutionBackward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::ShiftConvolutionBackward<T, HostSpace>& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Filter filter(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    constexpr Index wanted_units =
        32;  // slots do not depend on the threads, so neither do the sums
    const Index slots = std::clamp<Index>(wanted_units / std::max<Index>(1, filter.blocks()), 1,
                                          std::max<Index>(1, sequences));
    const auto sums = frame.template tensor<T>(slots, filter.blocks(), 3, filter.padded(), lanes);
    std::fill_n(sums.data(), sums.size(), T{0});
    const auto scratch = frame.template tensor<T>(threads, 7 * filter.rows() + 3 * chunk, lanes);
    parallel(threads, slots * filter.blocks(), 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index slot = i / filter.blocks();
        const Index block = i % filter.blocks();
        for (Index s = sequences * slot / slots; s < sequences * (slot + 1) / slots; ++s)
          Block(g, filter, sequence_at(s, a.x.extent(1), a.segments), block, &scratch(worker, 0, 0),
                &sums(slot, block, 0, 0, 0))
              .run();
      }
    });
    parallel(threads, filter.blocks(), 1, [&](Range range, int) {
      for (Index block = range.begin; block < range.end; ++block)
        add_gradients(g, filter, sums, block);
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Filter = ShiftFilter<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index chunk = 128;  // positions staged at a time
  static constexpr int tile = sizeof(Register) == 64 ? 8 : 4;

  static Register at(const T* rows, Index n) { return Register::load_aligned(rows + n * lanes); }
  static void add(T* rows, Index n, const Register& value) {
    (at(rows, n) + value).store_aligned(rows + n * lanes);
  }

  /// One sequence of one block of channels. `sums` holds the gradients of the taps, of B and of C,
  /// [3][padded][lanes].
  class Block {
   public:
    Block(const ssm::ShiftConvolutionBackward<T, HostSpace>& g, const Filter& filter, Sequence s,
          Index block, T* scratch, T* sums)
        : g_(g),
          a_(g.forward),
          filter_(filter),
          sequence_(s),
          block_(block),
          length_(s.end - s.begin),
          taps_(std::min(filter.padded(), whole_filter_groups(length_))),
          dtaps_(sums),
          dB_(sums + filter.padded() * lanes),
          dC_(dB_ + filter.padded() * lanes),
          inputs_(scratch),
          gradients_(inputs_ + (filter.rows() + chunk) * lanes),
          tail_(gradients_ + (filter.rows() + 2 * chunk) * lanes),
          state_(tail_ + (filter.rows() + Filter::margin) * lanes),
          dstate_(state_ + filter.rows() * lanes),
          x_(a_.x, s.batch, block * lanes, filter.count(block)),
          dy_(g.dy, s.batch, block * lanes, filter.count(block)),
          dx_(g.dx, s.batch, block * lanes, filter.count(block)) {}

    void run() const {
      std::fill_n(tail_, filter_.padded() * lanes, T{0});
      std::fill_n(dstate_, filter_.padded() * lanes, T{0});
      if (g_.dfinal_state) add_final_state();
      if (a_.initial_state || g_.dinitial_state) add_initial_state();
      for (Index first = sequence_.begin; first < sequence_.end; first += chunk) run_chunk(first);
      if (g_.dinitial_state)
        States::write(g_.dinitial_state, sequence_.row, block_ * lanes, filter_.count(block_),
                      dstate_);
    }

   private:
    void run_chunk(Index first) const {
      const Index end = std::min(sequence_.end, first + chunk);
      stage<T, Arch>([&](Index t) { return x_.load(t); }, first - taps_, first + chunk,
                     sequence_.begin, end, inputs_);
      stage<T, Arch>([&](Index t) { return dy_.load(t); }, first, first + chunk + taps_ + tile,
                     first, sequence_.end, gradients_);
      // Positions after the chunk have their own turn: their inputs are zero here.
      add_correlation<T, Arch>(inputs_ + taps_ * lanes, gradients_,
                               whole_filter_groups(end - first), taps_, dtaps_);
      if (!dx_) return;
      for (Index t = first; t < end; t += tile) {
        Register sums[tile];
        unrolled<tile>([&](auto j) {
          const Index from_end = sequence_.end - 1 - t - j;
          const bool reached = from_end >= 0 && from_end < filter_.size();
          sums[j] = reached ? at(tail_, from_end) : Register(T{0});
        });
        add_filtered<1, tile, T, Arch>(gradients_ + (t - first) * lanes, filter_.taps(block_),
                                       taps_, sums);
        for (Index j = 0; j < std::min<Index>(tile, end - t); ++j) dx_.store(t + j, sums[j]);
      }
    }

    /// Registers of an operand from its end or its beginning, zero after `length`; returns a whole
    /// number of groups.
    Index take(const Positions<const T, Arch>& from, bool latest_first, T* to) const {
      const Index taken = std::min(filter_.padded(), whole_filter_groups(length_));
      for (Index k = 0; k < taken; ++k) {
        const Index t = latest_first ? sequence_.end - 1 - k : sequence_.begin + k;
        (k < length_ ? from.load(t) : Register(T{0})).store_aligned(to + k * lanes);
      }
      return taken;
    }

    /// final[n] = Σ_{k≤n, k<L} B[n−k]·x[L−1−k] + initial[n−L]
    void add_final_state() const {
      read_state(g_.dfinal_state);
      filter_.template add_all<1>(state_, filter_.B(block_), filter_.padded(), tail_);
      const Index seen = take(x_, true, inputs_);
      filter_.template add_all<1>(state_, inputs_, seen, dB_);
      for (Index n = length_; n < filter_.size(); ++n) add(dstate_, n - length_, at(state_, n));
    }

    /// y[t] has Σ_{n>t} C[n]·initial[n−t−1]
    void add_initial_state() const {
      read_state(a_.initial_state);
      const Index seen = take(dy_, false, inputs_);
      filter_.template add_all<-1>(state_ - lanes, inputs_, seen, dC_);
      filter_.template add_all<1>(filter_.C(block_) + lanes, inputs_, seen, dstate_);
    }
    template <class V>
    void read_state(const V& states) const {
      std::fill_n(state_ - Filter::margin * lanes, filter_.rows() * lanes, T{0});
      States::read(states, sequence_.row, block_ * lanes, filter_.count(block_), state_,
                   filter_.padded() * lanes);
    }

    const ssm::ShiftConvolutionBackward<T, HostSpace>& g_;
    const ssm::ShiftConvolution<T, HostSpace>& a_;
    const Filter& filter_;
    Sequence sequence_;
    Index block_, length_, taps_;
    T *dtaps_, *dB_, *dC_, *inputs_, *gradients_, *tail_, *state_, *dstate_;
    Positions<const T, Arch> x_, dy_;
    Positions<T, Arch> dx_;
  };

  /// The slots are added in order:
  ///   dB[j]   += Σ_s dtaps[s]·C[j+s]
  ///   dC[j+s] += Σ_j dtaps[s]·B[j]
  ///   dskip   += dtaps[0]
  static void add_gradients(const ssm::ShiftConvolutionBackward<T, HostSpace>& g,
                            const Filter& filter, const View<T, 5>& sums, Index block) {
    T* total = &sums(0, block, 0, 0, 0);
    const Index size = filter.size();
    for (Index slot = 1; slot < sums.extent(0); ++slot)
      for (Index i = 0; i < 3 * filter.padded(); ++i)
        add(total, i, at(&sums(slot, block, 0, 0, 0), i));
    T* dB = total + filter.padded() * lanes;
    T* dC = dB + filter.padded() * lanes;
    std::fill_n(total + size * lanes, (filter.padded() - size) * lanes, T{0});  // not taps
    filter.template add_all<1>(filter.C(block), total, filter.padded(), dB);
    filter.template add_all<-1>(filter.B(block), total, filter.padded(), dC);
    for (Index lane = 0; lane < filter.count(block); ++lane) {
      const Index d = block * lanes + lane;
      if (g.dskip) g.dskip(d) += total[lane];
      for (Index n = 0; n < size; ++n) {
        if (g.dB) g.dB(d, n) += dB[n * lanes + lane];
        if (g.dC) g.dC(d, n) += dC[n * lanes + lane];
      }
    }
  }
};

}  // namespace ssm::cpu
