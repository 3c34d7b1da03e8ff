// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/short_taps.hpp"

namespace ssm::cpu {

/// The gradient of ShortConvolution with a channel in each lane, from the last position to the
/// first: the filtered sums are computed again, and what later positions say is carried along,
/// W − 1 registers a block.
template <class T, class Arch>
class ShortConvolutionBackward {
 public:
  using Operands = ssm::ShortConvolutionBackward<T, HostSpace>;

  template <class Ctx>
  static void run(Ctx& ctx, const Operands& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Taps taps(frame, a);
    const Index width = taps.width();
    constexpr Index max_slots = 8;
    const ChannelUnits units(threads, sequence_count(a.x.extent(0), a.segments), taps.blocks(),
                             max_slots, Taps::largest_group);
    const auto sums = frame.template tensor<T>(units.slots, taps.blocks(), width + 1, lanes);
    std::fill_n(sums.data(), sums.size(), T{0});
    const auto scratch = frame.template tensor<T>(threads, units.widest_group(), 2 * width, lanes);
    const bool worth_sharing = a.x.size() >= 32768;
    parallel(threads, units.size(), worth_sharing ? 1 : units.size(), [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Range slot = units.slot(i);
        for (Index s = slot.begin; s < slot.end; ++s)
          Group(g, taps, sequence_at(s, a.x.extent(1), a.segments), units.group(i),
                scratch.data() + worker * scratch.stride(0),
                sums.data() + i / units.groups * sums.stride(0))
              .run();
      }
    });
    for (Index block = 0; block < taps.blocks(); ++block) add_gradients(g, taps, sums, block);
  }

 private:
  using Register = Batch<T, Arch>;
  using Taps = ShortTaps<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = Taps::lanes;
  static constexpr int tile = 8;         // positions
  static constexpr int fixed_width = 4;  // has code of its own

  static Register at(const T* rows, Index i) { return Register::load_aligned(rows + i * lanes); }
  static void put(T* rows, Index i, const Register& value) {
    value.store_aligned(rows + i * lanes);
  }

  /// One block of channels of one sequence. The carry holds the gradients of the sums of the next
  /// W − 1 positions.
  class Block {
   public:
    Block(const Operands& g, const Taps& taps, Sequence s, Index block, const T* state, T* carry,
          T* sums)
        : taps_(taps.of(block)),
          width_(taps.width()),
          curved_(g.forward.activation == ActivationKind::silu),
          x_(g.forward, s, block, taps.count(block), state),
          dy_(g.dy, s.batch, block * lanes, taps.count(block)),
          dx_(g.dx, s.batch, block * lanes, taps.count(block)),
          carry_(carry),
          sums_(sums) {}

    void retreat(Index t) const {
      Register sum = at(taps_, width_);
      for (Index w = 0; w < width_; ++w)
        sum = xsimd::fma(at(taps_, w), x_(t - width_ + 1 + w), sum);
      const Register gradient = gradient_of(sum, t);
      Register dx = at(taps_, width_ - 1) * gradient;
      for (Index k = 0; k + 1 < width_; ++k)
        dx = xsimd::fma(at(taps_, width_ - 2 - k), at(carry_, k), dx);
      if (dx_) dx_.store(t, dx);
      for (Index w = 0; w < width_; ++w)
        put(sums_, w, xsimd::fma(gradient, x_(t - width_ + 1 + w), at(sums_, w)));
      put(sums_, width_, at(sums_, width_) + gradient);
      for (Index k = width_ - 2; k > 0; --k) put(carry_, k, at(carry_, k - 1));
      if (width_ > 1) put(carry_, 0, gradient);
    }

    /// Positions t … t + Length − 1, whose inputs all lie in the sequence.
    template <int Length>
    void retreat(Index t) const {
      constexpr int W = fixed_width;
      Register x[Length + W - 1], gradient[Length + W - 1], tap[W + 1], dtap[W + 1];
      unrolled<W + 1>([&](auto w) {
        tap[w] = at(taps_, w);
        dtap[w] = at(sums_, w);
      });
      unrolled<Length + W - 1>([&](auto i) { x[i] = x_.input(t - (W - 1) + i); });
      unrolled<W - 1>([&](auto k) { gradient[Length + k()] = at(carry_, k); });
      unrolled<Length>([&](auto j) {
        Register sum = tap[W];
        unrolled<W>([&](auto w) { sum = xsimd::fma(tap[w], x[j() + w()], sum); });
        gradient[j] = gradient_of(sum, t + j);
        unrolled<W>([&](auto w) { dtap[w] = xsimd::fma(gradient[j], x[j() + w()], dtap[w]); });
        dtap[W] += gradient[j];
      });
      unrolled<Length>([&](auto j) {
        Register dx = tap[W - 1] * gradient[j];
        unrolled<W - 1>(
            [&](auto k) { dx = xsimd::fma(tap[W - 2 - k()], gradient[j() + k() + 1], dx); });
        if (dx_) dx_.store(t + j, dx);
      });
      unrolled<W - 1>([&](auto k) { put(carry_, k, gradient[k]); });
      unrolled<W + 1>([&](auto w) { put(sums_, w, dtap[w]); });
    }

   private:
    [[gnu::always_inline]] Register gradient_of(const Register& sum, Index t) const {
      const Register dy = dy_.load(t);
      if (!curved_) return dy;
      const Register s = sigmoid_of(sum);
      return dy * s * xsimd::fma(sum, Register(T{1}) - s, Register(T{1}));
    }

    const T* taps_;
    Index width_;
    bool curved_;
    ShortInputs<T, Arch> x_;
    Positions<const T, Arch> dy_;
    Positions<T, Arch> dx_;
    T *carry_, *sums_;
  };

  /// One sequence of one group of blocks.
  class Group {
   public:
    Group(const Operands& g, const Taps& taps, Sequence s, Range blocks, T* scratch, T* sums)
        : g_(g),
          taps_(taps),
          sequence_(s),
          blocks_(blocks),
          width_(taps.width()),
          length_(s.end - s.begin),
          scratch_(scratch),
          sums_(sums) {}

    void run() const {
      for_each_block([&](Index block) {
        States::read(g_.forward.initial_state, sequence_.row, block * lanes, taps_.count(block),
                     state(block), width_ * lanes);
        std::fill_n(carry(block), width_ * lanes, T{0});
      });
      Index t = sequence_.end;
      if (width_ == fixed_width)
        for (; t - tile - (width_ - 1) >= sequence_.begin; t -= tile)
          for_each_block([&](Index block) { work(block).template retreat<tile>(t - tile); });
      for_each_block([&](Index block) {
        const Block one = work(block);
        for (Index i = t - 1; i >= sequence_.begin; --i) one.retreat(i);
        finish(block);
      });
    }

   private:
    template <class F>
    void for_each_block(F&& body) const {
      for (Index block = blocks_.begin; block < blocks_.end; ++block) body(block);
    }
    T* state(Index block) const { return scratch_ + (block - blocks_.begin) * 2 * width_ * lanes; }
    T* carry(Index block) const { return state(block) + width_ * lanes; }
    Block work(Index block) const {
      return Block(g_, taps_, sequence_, block, state(block), carry(block),
                   sums_ + block * (width_ + 1) * lanes);
    }

    /// The final state is the last W inputs: its gradient goes to them, and to the initial state
    /// where they are fewer.
    ///   dinitial[w] = Σ_{k<w} carry[k] · weight[w − 1 − k]
    void finish(Index block) const {
      const Index count = taps_.count(block);
      const T* taps = taps_.of(block);
      for (Index lane = 0; lane < count; ++lane) {
        const Index d = block * lanes + lane;
        for (Index w = 0; g_.dinitial_state && w < width_; ++w) {
          T sum{0};
          for (Index k = 0; k < w; ++k)
            sum += carry(block)[k * lanes + lane] * taps[(w - 1 - k) * lanes + lane];
          if (g_.dfinal_state && w >= length_)
            sum += g_.dfinal_state(sequence_.row, d, w - length_);
          g_.dinitial_state(sequence_.row, d, w) = sum;
        }
        if (!g_.dfinal_state || !g_.dx) continue;
        for (Index w = std::max<Index>(0, width_ - length_); w < width_; ++w)
          g_.dx(sequence_.batch, sequence_.end - width_ + w, d) +=
              g_.dfinal_state(sequence_.row, d, w);
      }
    }

    const Operands& g_;
    const Taps& taps_;
    Sequence sequence_;
    Range blocks_;
    Index width_, length_;
    T *scratch_, *sums_;
  };

  /// The slots are added in order.
  static void add_gradients(const Operands& g, const Taps& taps, const View<T, 4>& sums,
                            Index block) {
    const Index width = taps.width();
    for (Index slot = 0; slot < sums.extent(0); ++slot)
      for (Index lane = 0; lane < taps.count(block); ++lane) {
        const Index d = block * lanes + lane;
        for (Index w = 0; g.dweight && w < width; ++w)
          g.dweight(d, w) += sums(slot, block, w, lane);
        if (g.dbias) g.dbias(d) += sums(slot, block, width, lane);
      }
  }
};

}  // namespace ssm::cpu
