// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/lane_sums.hpp"
#include "ssm/backend/cpu/selective_modes.hpp"

namespace ssm::cpu {

/// SelectiveScan with a channel in each lane: states in the inner loop, `tile` positions of each at
/// a time so that loading and storing it costs nothing. Neighboring blocks take turns every `chunk`
/// positions, so that whole lines of a few pages are read at a time.
template <class T, class Arch>
class SelectiveScanForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::SelectiveScan<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Modes modes(frame, threads, a);
    const Index sequences = sequence_count(a.u.extent(0), a.segments);
    const ChannelUnits units(threads, sequences, modes.blocks(), sequences, Modes::largest_group);
    const auto states =
        frame.template tensor<T>(threads, units.widest_group() * modes.padded(), lanes);
    const bool worth_sharing = a.u.size() * modes.size() >= 32768;
    parallel(threads, units.size(), worth_sharing ? 1 : units.size(), [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Range slot = units.slot(i);
        for (Index s = slot.begin; s < slot.end; ++s)
          scan(a, modes, sequence_at(s, a.u.extent(1), a.segments), units.group(i),
               &states(worker, 0, 0));
      }
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Modes = SelectiveModes<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index chunk = 32;                           // positions
  static constexpr int tile = sizeof(Register) == 64 ? 4 : 2;  // what the registers hold

  static void scan(const ssm::SelectiveScan<T, HostSpace>& a, const Modes& modes, Sequence s,
                   Range blocks, T* states) {
    const Index size = modes.padded() * lanes;
    const auto for_each_block = [&](auto&& body) {
      T* state = states;
      for (Index block = blocks.begin; block < blocks.end; ++block, state += size)
        body(block, state);
    };
    for_each_block([&](Index block, T* state) {
      States::read(a.initial_state, s.row, block * lanes, modes.count(block), state, size);
    });
    for (Index first = s.begin; first < s.end; first += chunk)
      for_each_block([&](Index block, T* state) {
        const Index end = std::min(s.end, first + chunk);
        if (block + 1 < blocks.end)  // the next block's rows on their way, while this one computes
          for (const auto* view : {&a.u, &a.dt, &a.gate})
            if (*view) prefetch(*view, s.batch, first, end - first, (block + 1) * lanes);
        Block(a, modes, s.batch, block, state).advance(first, end);
      });
    if (!a.final_state) return;
    for_each_block([&](Index block, T* state) {
      States::write(a.final_state, s.row, block * lanes, modes.count(block), state);
    });
  }

  class Block {
   public:
    Block(const ssm::SelectiveScan<T, HostSpace>& a, const Modes& modes, Index batch, Index block,
          T* state)
        : modes_(modes),
          rates_(modes.rates(block)),
          B_(modes.B().data() + batch * modes.B().stride(0)),
          C_(modes.C().data() + batch * modes.C().stride(0)),
          state_(state),
          softplus_(a.dt_softplus),
          bias_(modes.of_channels(a.dt_bias, block)),
          skip_(modes.of_channels(a.skip, block)),
          u_(a.u, batch, block * lanes, modes.count(block)),
          dt_(a.dt, batch, block * lanes, modes.count(block)),
          gate_(a.gate, batch, block * lanes, modes.count(block)),
          dt_used_(a.dt_used, batch, block * lanes, modes.count(block)),
          y_(a.y, batch, block * lanes, modes.count(block)) {}

    void advance(Index t, Index end) const {
      for (; t + tile <= end; t += tile) advance_tile<tile>(t);
      for (; t < end; ++t) advance_tile<1>(t);
    }

   private:
    template <int Length>
    void advance_tile(Index t) const {
      Register dt[Length], input[Length], sum[Length];
      unrolled<Length>([&](auto j) {
        dt[j] = dt_.load(t + j) + bias_;
        if (softplus_) dt[j] = softplus_of(dt[j]);
        if (dt_used_) dt_used_.store(t + j, dt[j]);
        const Register u = u_.load(t + j);
        input[j] = dt[j] * u;
        sum[j] = skip_ * u;
      });
      add_states<Length>(t, dt, input, sum);
      unrolled<Length>([&](auto j) {
        if (gate_) {
          const Register z = gate_.load(t + j);
          sum[j] *= z * sigmoid_of(z);
        }
        y_.store(t + j, sum[j]);
      });
    }

    template <int Length>
    [[gnu::always_inline]] void add_states(Index t, const Register (&dt)[Length],
                                           const Register (&input)[Length],
                                           Register (&sums)[Length]) const {
      Register sum[Length];  // a copy, which the compiler knows nobody else to see
      const T *B[Length], *C[Length];
      unrolled<Length>([&](auto j) {
        sum[j] = sums[j];
        B[j] = B_ + (t + j) * modes_.B().stride(1);
        C[j] = C_ + (t + j) * modes_.C().stride(1);
      });
      T* at = state_;
      const T* rate = rates_;
      for (Index n = 0; n < modes_.size(); ++n, at += lanes, rate += lanes) {
        const Register A = Register::load_aligned(rate);
        Register state = Register::load_aligned(at);
        unrolled<Length>([&](auto j) {
          state = xsimd::fma(exp2_of(Register(dt[j] * A)), state, input[j] * Register(B[j][n]));
          sum[j] = xsimd::fma(Register(C[j][n]), state, sum[j]);
        });
        state.store_aligned(at);
      }
      unrolled<Length>([&](auto j) { sums[j] = sum[j]; });
    }

    const Modes& modes_;
    const T *rates_, *B_, *C_;
    T* state_;
    bool softplus_;
    Register bias_, skip_;
    Positions<const T, Arch> u_, dt_, gate_;
    Positions<T, Arch> dt_used_, y_;
  };
};

/// SelectiveScan over a single position: the states lie in lanes, as they do in memory, so that a
/// step reads A and the state once and rearranges nothing.
template <class T, class Arch>
class SelectiveScanStep {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::SelectiveScan<T, HostSpace>& a) {
    const Index blocks = (a.u.extent(2) + lanes - 1) / lanes;
    const Index grain = 8192 / (lanes * std::max<Index>(1, a.A.extent(1)));
    parallel(ctx.resources().threads(), blocks, grain, [&](Range range, int) {
      for (Index block = range.begin; block < range.end; ++block)
        for (Index b = 0; b < a.u.extent(0); ++b)
          step(a, b, block * lanes, std::min(lanes, a.u.extent(2) - block * lanes));
    });
  }

 private:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;

  static void step(const ssm::SelectiveScan<T, HostSpace>& a, Index b, Index channel, Index count) {
    const auto in = [&](const View<const T, 3>& view) {
      return Positions<const T, Arch>(view, b, channel, count);
    };
    const auto of_channels = [&](const View<const T, 1>& view) {
      if (!view) return Register(T{0});
      return gather<T, Arch>(view.data() + channel * view.stride(0), view.stride(0), count);
    };
    const Register u = in(a.u).load(0);
    Register dt = in(a.dt).load(0) + of_channels(a.dt_bias);
    if (a.dt_softplus) dt = softplus_of(dt);
    if (a.dt_used) Positions<T, Arch>(a.dt_used, b, channel, count).store(0, dt);
    alignas(64) T rates[lanes], inputs[lanes];
    (dt * Register(static_cast<T>(log2_of_e))).store_aligned(rates);
    (dt * u).store_aligned(inputs);
    Register reads[lanes];
    for (Index lane = 0; lane < lanes; ++lane) reads[lane] = Register(T{0});
    for (Index n = 0; n < a.A.extent(1); n += lanes)
      advance(a, b, channel, count, n, rates, inputs, reads);
    Register y = xsimd::fma(of_channels(a.skip), u, lane_sums<T, Arch>(reads));
    if (a.gate) {
      const Register z = in(a.gate).load(0);
      y *= z * sigmoid_of(z);
    }
    Positions<T, Arch>(a.y, b, channel, count).store(0, y);
  }

  /// Advances the states from n on, as many as there are lanes, of some neighboring channels, and
  /// adds what they say.
  static void advance(const ssm::SelectiveScan<T, HostSpace>& a, Index b, Index channel,
                      Index channels, Index n, const T* rates, const T* inputs, Register* reads) {
    const Index count = std::min(lanes, a.A.extent(1) - n);
    const auto states_of = [&](const auto& view, Index i, Index j) {
      return gather<T, Arch>(&view(i, j, n), view.stride(2), count);
    };
    const Register B = states_of(a.B, b, 0);
    const Register C = states_of(a.C, b, 0);  // zero beyond the last state
    for (Index lane = 0; lane < channels; ++lane) {
      const Index d = channel + lane;
      Register state = Register(inputs[lane]) * B;
      if (a.initial_state) {
        const Register A = gather<T, Arch>(&a.A(d, n), a.A.stride(1), count);
        state = xsimd::fma(exp2_of(Register(Register(rates[lane]) * A)),
                           states_of(a.initial_state, b, d), state);
      }
      if (a.final_state)
        scatter<T, Arch>(&a.final_state(b, d, n), a.final_state.stride(2), count, state);
      reads[lane] = xsimd::fma(C, state, reads[lane]);
    }
  }
};

}  // namespace ssm::cpu
