// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/diagonal_modes.hpp"
#include "ssm/backend/cpu/positions.hpp"

namespace ssm::cpu {

/// DiagonalScan with a channel in each lane: modes in the inner loop, `tile` positions of each at a
/// time so that loading and storing its state costs nothing. From a zero state B̄ is folded into C
/// and the recurrence runs on unit input: 6 operations a mode, where 8 are needed with a state.
template <class T, class Arch>
class DiagonalScanForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DiagonalScan<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Modes modes(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    const auto states = frame.template tensor<T>(threads, modes.modes(), Modes::number_size);
    const Index work = a.x.size() * modes.modes();
    const Index units = sequences * modes.blocks();
    const Index grain = work < 65536 ? units : 1;
    parallel(threads, units, grain, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Sequence s = sequence_at(i / modes.blocks(), a.x.extent(1), a.segments);
        const Block block(a, modes, s, i % modes.blocks(), &states(worker, 0, 0));
        if (a.initial_state)
          block.template scan<false>();
        else
          block.template scan<true>();
      }
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Modes = DiagonalModes<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr int tile = 4;                                        // positions
  static constexpr int modes_at_once = sizeof(Register) == 64 ? 2 : 1;  // what the registers hold

  class Block {
   public:
    Block(const ssm::DiagonalScan<T, HostSpace>& a, const Modes& modes, Sequence s, Index block,
          T* state)
        : a_(a),
          modes_(modes),
          coefficients_(modes.block(block)),
          sequence_(s),
          channel_(block * Modes::lanes),
          count_(std::min(Modes::lanes, a.x.extent(2) - channel_)),
          state_(state),
          skip_(a.skip ? modes.gather_rows(a.skip, block) : Register(T{0})),
          x_(a.x, s.batch, channel_, count_),
          gate_in_(a.gate_in, s.batch, channel_, count_),
          gate_out_(a.gate_out, s.batch, channel_, count_),
          y_(a.y, s.batch, channel_, count_),
          is_whole_(x_.is_whole() && gate_in_.is_whole() && gate_out_.is_whole() && y_.is_whole()) {
    }

    template <bool Folded>
    void scan() const {
      States::read(a_.initial_state, sequence_.row, channel_, count_, state_,
                   modes_.modes() * Modes::number_size);
      Index t = sequence_.begin;
      for (; t + tile <= sequence_.end; t += tile) advance<Folded, tile>(t);
      for (; t < sequence_.end; ++t) advance<Folded, 1>(t);
      if (!a_.final_state) return;
      if constexpr (Folded)
        for (Index p = 0; p < modes_.modes(); ++p) {
          T* at = state_ + p * Modes::number_size;
          store_number<T, Arch>(at,
                                coefficients_.load(Modes::input, p) * load_number<T, Arch, 2>(at));
        }
      States::write(a_.final_state, sequence_.row, channel_, count_, state_);
    }

   private:
    template <bool Folded, int Length>
    void advance(Index t) const {
      Register u[Length], sum[Length];
      if (is_whole_) [[likely]] {
        expanded<Length>([&](auto... j) { ((u[j] = x_.load_whole(t + j)), ...); });
        if (gate_in_)
          expanded<Length>([&](auto... j) { ((u[j] *= gate_in_.load_whole(t + j)), ...); });
      } else {
        expanded<Length>([&](auto... j) { ((u[j] = load(t + j)), ...); });
      }
      expanded<Length>([&](auto... j) { ((sum[j] = skip_ * u[j]), ...); });
      for (Index p = 0; p < modes_.modes(); p += modes_at_once)
        advance_modes<Folded, Length, modes_at_once>(p, u, sum);
      if (is_whole_) [[likely]] {
        if (gate_out_)
          expanded<Length>([&](auto... j) { ((sum[j] *= gate_out_.load_whole(t + j)), ...); });
        expanded<Length>([&](auto... j) { (y_.store_whole(t + j, sum[j]), ...); });
      } else {
        expanded<Length>([&](auto... j) { (store(t + j, sum[j]), ...); });
      }
    }
    [[gnu::noinline]] Register load(Index t) const {
      const Register x = x_.load(t);
      return gate_in_ ? x * gate_in_.load(t) : x;
    }
    [[gnu::noinline]] void store(Index t, const Register& sum) const {
      y_.store(t, gate_out_ ? sum * gate_out_.load(t) : sum);
    }

    template <bool Folded, int Length, int Width>
    [[gnu::always_inline]] void advance_modes(Index p, const Register (&u)[Length],
                                              Register (&sum)[Length]) const {
      typename Modes::Number A[Width], C[Width], B[Width], state[Width];
      expanded<Width>([&](auto... i) {
        ((A[i] = coefficients_.load(Modes::decay, p + i)), ...);
        ((C[i] = coefficients_.load(Folded ? Modes::folded : Modes::output, p + i)), ...);
        if constexpr (!Folded) ((B[i] = coefficients_.load(Modes::input, p + i)), ...);
        ((state[i] = load_number<T, Arch, 2>(state_ + (p + i) * Modes::number_size)), ...);
      });
      unrolled<Length>([&](auto j) __attribute__((always_inline)) {
        expanded<Width>([&](auto... i) __attribute__((always_inline)) {
          if constexpr (Folded)
            ((state[i] = multiply_add(A[i], state[i], u[j])), ...);
          else
            ((state[i] = multiply_add(A[i], state[i], B[i] * u[j])), ...);
          ((sum[j] = real_multiply_add(C[i], state[i], sum[j])), ...);
        });
      });
      expanded<Width>([&](auto... i) {
        (store_number<T, Arch>(state_ + (p + i) * Modes::number_size, state[i]), ...);
      });
    }

    const ssm::DiagonalScan<T, HostSpace>& a_;
    const Modes& modes_;
    typename Modes::Block coefficients_;
    Sequence sequence_;
    Index channel_, count_;
    T* state_;
    Register skip_;
    Positions<const T, Arch> x_, gate_in_, gate_out_;
    Positions<T, Arch> y_;
    bool is_whole_;  // all of them
  };
};

}  // namespace ssm::cpu
