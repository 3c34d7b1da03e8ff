// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/short_taps.hpp"

namespace ssm::cpu {

/// ShortConvolution with a channel in each lane, `tile` positions of neighboring blocks in turn:
/// memory is read and written once, in whole lines.
template <class T, class Arch>
class ShortConvolutionForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::ShortConvolution<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Taps taps(frame, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    const ChannelUnits units(threads, sequences, taps.blocks(), sequences, Taps::largest_group);
    const auto states =
        frame.template tensor<T>(threads, units.widest_group() * taps.width(), lanes);
    const bool worth_sharing = a.x.size() >= 32768;
    parallel(threads, units.size(), worth_sharing ? 1 : units.size(), [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Range slot = units.slot(i);
        for (Index s = slot.begin; s < slot.end; ++s)
          filter(a, taps, sequence_at(s, a.x.extent(1), a.segments), units.group(i),
                 &states(worker, 0, 0));
      }
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Taps = ShortTaps<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = Taps::lanes;
  static constexpr int tile = sizeof(Register) == 64 ? 8 : 4;  // positions
  static constexpr int fixed_width = 4;                        // has code of its own

  static void filter(const ssm::ShortConvolution<T, HostSpace>& a, const Taps& taps, Sequence s,
                     Range blocks, T* states) {
    const Index width = taps.width();
    const auto state = [&](Index block) { return states + (block - blocks.begin) * width * lanes; };
    for (Index block = blocks.begin; block < blocks.end; ++block)
      States::read(a.initial_state, s.row, block * lanes, taps.count(block), state(block),
                   width * lanes);
    Index t = s.begin;
    const auto advance = [&](Index end, auto&& at) {
      for (Index block = blocks.begin; block < blocks.end; ++block)
        at(Block(a, taps, s, block, state(block)), end);
      t = end;
    };
    const Index head = std::min(s.end, s.begin + width - 1);  // these see the state
    const auto singly = [&](const Block& block, Index end) {
      for (Index i = t; i < end; ++i) block.advance(i);
    };
    advance(head, singly);
    if (width == fixed_width)
      while (t + tile <= s.end)
        advance(t + tile, [&](const Block& block, Index) { block.template advance<tile>(t); });
    while (t < s.end) advance(std::min(s.end, t + tile), singly);
    if (!a.final_state) return;
    for (Index block = blocks.begin; block < blocks.end; ++block)
      write_state(a, s, block * lanes, taps.count(block), width);
  }

  /// In rising order, so that the final state may be the initial one.
  static void write_state(const ssm::ShortConvolution<T, HostSpace>& a, Sequence s, Index channel,
                          Index count, Index width) {
    const Index length = s.end - s.begin;
    for (Index d = channel; d < channel + count; ++d)
      for (Index w = 0; w < width; ++w) {
        const Index t = length - width + w;
        const T before = t < 0 && a.initial_state ? a.initial_state(s.row, d, t + width) : T{0};
        a.final_state(s.row, d, w) = t < 0 ? before : a.x(s.batch, s.begin + t, d);
      }
  }

  class Block {
   public:
    Block(const ssm::ShortConvolution<T, HostSpace>& a, const Taps& taps, Sequence s, Index block,
          const T* state)
        : taps_(taps.of(block)),
          width_(taps.width()),
          curved_(a.activation == ActivationKind::silu),
          x_(a, s, block, taps.count(block), state),
          y_(a.y, s.batch, block * lanes, taps.count(block)) {}

    void advance(Index t) const {
      Register sum = Register::load_aligned(taps_ + width_ * lanes);
      for (Index w = 0; w < width_; ++w)
        sum = xsimd::fma(Register::load_aligned(taps_ + w * lanes), x_(t - width_ + 1 + w), sum);
      put(t, sum);
    }

    /// Positions whose inputs all lie in the sequence.
    template <int Length>
    void advance(Index t) const {
      Register x[Length + fixed_width - 1], tap[fixed_width + 1];
      unrolled<fixed_width + 1>(
          [&](auto w) { tap[w] = Register::load_aligned(taps_ + w * lanes); });
      unrolled<Length + fixed_width - 1>(
          [&](auto i) { x[i] = x_.input(t - (fixed_width - 1) + i); });
      unrolled<Length>([&](auto j) {
        Register sum = tap[fixed_width];
        unrolled<fixed_width>([&](auto w) { sum = xsimd::fma(tap[w], x[j() + w()], sum); });
        put(t + j, sum);
      });
    }

   private:
    [[gnu::always_inline]] void put(Index t, const Register& sum) const {
      y_.store(t, curved_ ? sum * sigmoid_of(sum) : sum);
    }

    const T* taps_;
    Index width_;
    bool curved_;
    ShortInputs<T, Arch> x_;
    Positions<T, Arch> y_;
  };
};

/// ShortConvolution over a single position, straight from the operands as they lie.
template <class T, class Arch>
class ShortConvolutionStep {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::ShortConvolution<T, HostSpace>& a) {
    constexpr Index grain = 64;  // blocks
    const Index channels = a.x.extent(2);
    parallel(ctx.resources().threads(), (channels + lanes - 1) / lanes, grain,
             [&](Range range, int) {
               for (Index block = range.begin; block < range.end; ++block)
                 for (Index b = 0; b < a.x.extent(0); ++b)
                   step(a, b, block * lanes, std::min(lanes, channels - block * lanes));
             });
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index fixed_width = 4;  // has code of its own

  static void step(const ssm::ShortConvolution<T, HostSpace>& a, Index b, Index channel,
                   Index count) {
    alignas(64) T sums[lanes] = {};
    const bool is_fixed = a.weight.extent(1) == fixed_width && a.weight.stride(1) == 1 &&
                          a.initial_state && a.initial_state.stride(2) == 1 && a.final_state &&
                          a.final_state.stride(2) == 1;
    for (Index lane = 0; lane < count; ++lane)
      sums[lane] = is_fixed ? advance_fixed(a, b, channel + lane) : advance(a, b, channel + lane);
    Register sum = Register::load_aligned(sums);
    if (a.bias)
      sum += gather<T, Arch>(a.bias.data() + channel * a.bias.stride(0), a.bias.stride(0), count);
    if (a.activation == ActivationKind::silu) sum *= sigmoid_of(sum);
    Positions<T, Arch>(a.y, b, channel, count).store(0, sum);
  }

  /// The filtered sum of one channel, and its state moved on by one, in rising order: it may lie
  /// where it lay.
  static T advance(const ssm::ShortConvolution<T, HostSpace>& a, Index b, Index d) {
    const Index width = a.weight.extent(1);
    const T x = a.x(b, 0, d);
    T sum{0};
    for (Index w = 0; w + 1 < width; ++w) {
      const T before = a.initial_state ? a.initial_state(b, d, w + 1) : T{0};
      sum += a.weight(d, w) * before;
      if (a.final_state) a.final_state(b, d, w) = before;
    }
    if (a.final_state) a.final_state(b, d, width - 1) = x;
    return sum + a.weight(d, width - 1) * x;
  }

  /// The same with everything adjacent: four numbers at a time.
  static T advance_fixed(const ssm::ShortConvolution<T, HostSpace>& a, Index b, Index d) {
    const T* from = &a.initial_state(b, d, 0);
    const T* weight = &a.weight(d, 0);
    const T row[fixed_width] = {from[1], from[2], from[3], a.x(b, 0, d)};
    std::copy_n(row, fixed_width, &a.final_state(b, d, 0));
    return (row[0] * weight[0] + row[1] * weight[1]) + (row[2] * weight[2] + row[3] * weight[3]);
  }
};

}  // namespace ssm::cpu
