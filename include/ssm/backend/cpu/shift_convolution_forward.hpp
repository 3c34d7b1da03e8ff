// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/shift_filter.hpp"

namespace ssm::cpu {

/// ShiftConvolution with a channel in each lane, as a filter; the state before only reaches the
/// first N − 1 outputs, and the state after only sees the last N inputs.
template <class T, class Arch>
class ShiftConvolutionForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::ShiftConvolution<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Filter filter(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    const auto scratch = frame.template tensor<T>(threads, 4 * filter.rows() + chunk, lanes);
    const Index units = sequences * filter.blocks();
    const Index grain = a.x.size() * filter.size() < 65536 ? units : 1;
    parallel(threads, units, grain, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i)
        Block(a, filter, sequence_at(i / filter.blocks(), a.x.extent(1), a.segments),
              i % filter.blocks(), &scratch(worker, 0, 0))
            .run();
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Filter = ShiftFilter<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index chunk = 256;  // positions staged at a time
  static constexpr int tile = sizeof(Register) == 64 ? 8 : 4;

  /// One sequence of one block of channels.
  class Block {
   public:
    Block(const ssm::ShiftConvolution<T, HostSpace>& a, const Filter& filter, Sequence s,
          Index block, T* scratch)
        : a_(a),
          filter_(filter),
          sequence_(s),
          block_(block),
          length_(s.end - s.begin),
          state_(scratch),
          head_(state_ + filter.rows() * lanes),
          last_(head_ + filter.rows() * lanes),
          staged_(last_ + filter.rows() * lanes),
          x_(a.x, s.batch, block * lanes, filter.count(block)),
          y_(a.y, s.batch, block * lanes, filter.count(block)) {}

    void run() const {
      States::read(a_.initial_state, sequence_.row, block_ * lanes, filter_.count(block_), state_,
                   filter_.rows() * lanes);
      const Index heads = a_.initial_state ? std::min(length_, filter_.padded()) : 0;
      if (heads > 0) {  // y[t] has Σ_{n>t} C[n]·state[n−t−1]
        std::fill_n(head_, filter_.padded() * lanes, T{0});
        filter_.template add_all<1>(filter_.C(block_) + lanes, state_, filter_.padded(), head_);
      }
      // Taps beyond the sequence meet zeros only.
      const Index taps = std::min(filter_.padded(), whole_filter_groups(length_));
      for (Index first = sequence_.begin; first < sequence_.end; first += chunk) {
        const Index end = std::min(sequence_.end, first + chunk);
        stage<T, Arch>([&](Index t) { return x_.load(t); }, first - taps, first + chunk,
                       sequence_.begin, end, staged_);
        for (Index t = first; t < end; t += tile) {
          Register sums[tile];
          unrolled<tile>([&](auto j) {
            const Index at = t - sequence_.begin + j;
            sums[j] = at < heads ? Register::load_aligned(head_ + at * lanes) : Register(T{0});
          });
          add_filtered<-1, tile, T, Arch>(staged_ + (t - first + taps) * lanes,
                                          filter_.taps(block_), taps, sums);
          for (Index j = 0; j < std::min<Index>(tile, end - t); ++j) y_.store(t + j, sums[j]);
        }
      }
      if (a_.final_state) write_state();
    }

   private:
    /// state[n] = Σ_{k≤n} B[n−k]·x[L−1−k], and what is left of the state before where n ≥ L.
    void write_state() const {
      const Index seen = std::min(filter_.padded(), whole_filter_groups(length_));
      for (Index k = 0; k < seen; ++k)  // the last inputs, latest first
        (k < length_ ? x_.load(sequence_.end - 1 - k) : Register(T{0}))
            .store_aligned(last_ + k * lanes);
      for (Index n = filter_.padded() - 1; n >= 0; --n)
        (n >= length_ ? Register::load_aligned(state_ + (n - length_) * lanes) : Register(T{0}))
            .store_aligned(state_ + n * lanes);
      filter_.template add_all<-1>(filter_.B(block_), last_, seen, state_);
      States::write(a_.final_state, sequence_.row, block_ * lanes, filter_.count(block_), state_);
    }

    const ssm::ShiftConvolution<T, HostSpace>& a_;
    const Filter& filter_;
    Sequence sequence_;
    Index block_, length_;
    T *state_, *head_, *last_, *staged_;
    Positions<const T, Arch> x_;
    Positions<T, Arch> y_;
  };
};

/// ShiftConvolution over a single position: the state is shifted and read once, its N numbers in
/// lanes.
template <class T, class Arch>
class ShiftConvolutionStep {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::ShiftConvolution<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Index size = a.B.extent(1);
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, size + 2 * lanes);
    const Index grain = 4096 / std::max<Index>(1, size);
    parallel(threads, a.x.extent(2), grain, [&](Range range, int worker) {
      for (Index d = range.begin; d < range.end; ++d)
        for (Index b = 0; b < a.x.extent(0); ++b) step(a, b, d, &scratch(worker, 0));
    });
  }

 private:
  static constexpr Index lanes = lane_count<T, Arch>;

  static void step(const ssm::ShiftConvolution<T, HostSpace>& a, Index b, Index d, T* shifted) {
    const Index size = a.B.extent(1);
    const Rows<const T, Arch> B(a.B), C(a.C);
    std::fill_n(shifted, size + lanes, T{0});
    if (a.initial_state)
      for (Index n = 1; n < size; ++n) shifted[n] = a.initial_state(b, d, n - 1);
    const T u = a.x(b, 0, d);
    Batch<T, Arch> sum(T{0});
    for (Index n = 0; n < size; n += lanes) {
      const Index count = std::min(lanes, size - n);
      const auto state =
          xsimd::fma(B.load(d, n, count), Batch<T, Arch>(u), load<T, Arch>(shifted + n));
      sum = xsimd::fma(C.load(d, n, count), state, sum);  // C is zero beyond the last number
      if (const auto& to = a.final_state)
        scatter<T, Arch>(&to(b, d, n), to.stride(2), count, state);
    }
    a.y(b, 0, d) = sum_of_lanes(sum) + (a.skip ? a.skip(d) * u : T{0});
  }
};

}  // namespace ssm::cpu
