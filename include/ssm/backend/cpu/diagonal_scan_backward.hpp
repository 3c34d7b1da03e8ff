// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/diagonal_mode_gradients.hpp"
#include "ssm/backend/cpu/diagonal_scan_forward.hpp"

namespace ssm::cpu {

/// The gradient of DiagonalScan with a channel in each lane. A first pass keeps the state at every
/// `chunk` positions; then, from the last chunk to the first, the states inside are computed again,
/// some modes at a time, and the adjoint runs back over them, all within the first-level cache.
/// From a zero state and without gradients of states, B̄ and C factor out of both recurrences:
/// x = B̄·x′, λ = w·C*·μ, and
/// the sums for B̄ and for C are one:  Σ g·x′* = Σ u·μ.
template <class T, class Arch>
class DiagonalScanBackward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DiagonalScanBackward<T, HostSpace>& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    auto frame = ctx.workspace().frame();
    const Modes modes(frame, threads, a);
    const Index sequences = sequence_count(a.x.extent(0), a.segments);
    // Sequences share sums within a slot, and slots are added in order; their number does not
    // depend on the threads.
    constexpr Index wanted_units = 32;
    const Index slots = std::clamp<Index>(wanted_units / std::max<Index>(1, modes.blocks()), 1,
                                          std::max<Index>(1, sequences));
    Gradients gradients(frame, modes, slots);
    const auto scratch = frame.template tensor<T>(threads, Block::scratch_size(a, modes.modes()));
    const bool plain = !a.initial_state && !g.dfinal_state && !g.dinitial_state;
    parallel(threads, slots * modes.blocks(), 1, [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Index block = i % modes.blocks();
        const Index slot = i / modes.blocks();
        const auto sums = gradients.sums(slot, block);
        for (Index s = sequences * slot / slots; s < sequences * (slot + 1) / slots; ++s) {
          const Block work(g, modes, sequence_at(s, a.x.extent(1), a.segments), block,
                           &scratch(worker, 0), sums);
          if (plain)
            work.template run<true>();
          else
            work.template run<false>();
        }
        if (plain) gradients.unfold(slot, block);
      }
    });
    gradients.add_to(threads, g);
  }

 private:
  using Register = Batch<T, Arch>;
  using Modes = DiagonalModes<T, Arch>;
  using Number = typename Modes::Number;
  using States = ChannelStates<T, Arch>;
  using Gradients = DiagonalModeGradients<T, Arch>;
  using Sums = typename Gradients::Sums;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index number_size = Modes::number_size;
  static constexpr Index chunk = 64;                  // positions
  static constexpr int modes_at_once = Modes::group;  // hide each other's latency

  /// One sequence of one block of channels.
  class Block {
   public:
    Block(const ssm::DiagonalScanBackward<T, HostSpace>& g, const Modes& modes, Sequence s,
          Index block, T* scratch, const Sums& sums)
        : g_(g),
          a_(g.forward),
          modes_(modes),
          coefficients_(modes.block(block)),
          sequence_(s),
          block_(block),
          channel_(block * lanes),
          count_(std::min(lanes, g.dy.extent(2) - channel_)),
          sums_(sums),
          adjoint_(scratch),
          u_(adjoint_ + modes.modes() * number_size),
          gradient_(u_ + chunk * lanes),
          du_(gradient_ + chunk * lanes),
          output_(du_ + chunk * lanes),
          states_(output_ + chunk * lanes),
          boundary_(states_ + (chunk + 1) * modes_at_once * number_size) {}

    static Index scratch_size(const ssm::DiagonalScan<T, HostSpace>& a, Index modes) {
      const Index chunks = a.x.extent(1) / chunk + 2;
      return (modes * (chunks + 1) + (chunk + 1) * modes_at_once) * number_size + 4 * chunk * lanes;
    }

    template <bool Folded>
    void run() const {
      const Index size = modes_.modes() * number_size;
      States::read(a_.initial_state, sequence_.row, channel_, count_, boundary_, size);
      States::read(g_.dfinal_state, sequence_.row, channel_, count_, adjoint_, size);
      const Index chunks = (sequence_.end - sequence_.begin + chunk - 1) / chunk;
      for (Index c = 0; c + 1 < chunks; ++c) {
        load_inputs(c);
        for_each_group([&](Index p) {
          run_states<Folded, false, modes_at_once>(p, chunk, at(c, p), at(c + 1, p));
        });
      }
      for (Index c = chunks - 1; c >= 0; --c) run_chunk<Folded>(c);
      if (g_.dinitial_state)
        States::write(g_.dinitial_state, sequence_.row, channel_, count_, adjoint_);
    }

   private:
    T* at(Index c, Index p) const { return boundary_ + (c * modes_.modes() + p) * number_size; }

    template <class F>
    void for_each_group(F&& body) const {
      for (Index p = 0; p < modes_.modes(); p += modes_at_once) body(p);
    }

    /// u of a chunk into scratch; returns its length.
    [[gnu::noinline]] Index load_inputs(Index c) const {
      const Index first = sequence_.begin + c * chunk;
      const Index length = std::min(chunk, sequence_.end - first);
      const Positions<const T, Arch> x(a_.x, sequence_.batch, channel_, count_);
      const Positions<const T, Arch> gate(a_.gate_in, sequence_.batch, channel_, count_);
      for (Index t = 0; t < length; ++t) {
        Register u = x.load(first + t);
        if (gate) u *= gate.load(first + t);
        u.store_aligned(u_ + t * lanes);
      }
      return length;
    }

    /// Advances `Width` modes over a chunk; with Keep, the states before every position and at the
    /// end go to `states_`.
    template <bool Folded, bool Keep, int Width>
    void run_states(Index p, Index length, const T* from, T* to) const {
      Number state[Width], A[Width], B[Width];
      expanded<Width>([&](auto... i) {
        ((state[i] = load_number<T, Arch, 2>(from + i * number_size)), ...);
        ((A[i] = coefficients_.load(Modes::decay, p + i)), ...);
        ((B[i] = coefficients_.load(Modes::input, p + i)), ...);
      });
      const T* input = u_;
      for (const T* end = u_ + length * lanes; input != end; input += lanes) {
        const Register u = Register::load_aligned(input);
        expanded<Width>([&](auto... i) {
          if constexpr (Keep) (store_number<T, Arch>(to + i * number_size, state[i]), ...);
          if constexpr (Folded)
            ((state[i] = multiply_add(A[i], state[i], u)), ...);
          else
            ((state[i] = multiply_add(A[i], state[i], B[i] * u)), ...);
        });
        if constexpr (Keep) to += modes_at_once * number_size;
      }
      expanded<Width>(
          [&](auto... i) { (store_number<T, Arch>(to + i * number_size, state[i]), ...); });
    }

    template <bool Folded>
    void run_chunk(Index c) const {
      const Index length = load_inputs(c);
      load_gradients(sequence_.begin + c * chunk, length);
      for_each_group([&](Index p) {
        run_states<Folded, true, modes_at_once>(p, length, at(c, p), states_);
        if (g_.dgate_out) add_outputs<Folded, modes_at_once>(p, length);
        for (int i = 0; i < modes_at_once; i += 2) run_adjoint<Folded, 2>(p + i, i, length);
      });
      store_gradients(sequence_.begin + c * chunk, length);
    }

    /// g = gate_out · dy; what the skip adds to du and to the output.
    [[gnu::noinline]] void load_gradients(Index first, Index length) const {
      const Positions<const T, Arch> dy(g_.dy, sequence_.batch, channel_, count_);
      const Positions<const T, Arch> gate(a_.gate_out, sequence_.batch, channel_, count_);
      const Register skip = a_.skip ? modes_.gather_rows(a_.skip, block_) : Register(T{0});
      Register dskip = Register::load_aligned(sums_.dskip);
      for (Index t = 0; t < length; ++t) {
        const Register u = Register::load_aligned(u_ + t * lanes);
        Register gradient = dy.load(first + t);
        if (gate) gradient *= gate.load(first + t);
        gradient.store_aligned(gradient_ + t * lanes);
        (skip * gradient).store_aligned(du_ + t * lanes);
        (skip * u).store_aligned(output_ + t * lanes);
        dskip = xsimd::fma(u, gradient, dskip);
      }
      dskip.store_aligned(sums_.dskip);
    }

    template <bool Folded, int Width>
    void add_outputs(Index p, Index length) const {
      Number C[Width];
      expanded<Width>([&](auto... i) {
        ((C[i] = coefficients_.load(Folded ? Modes::folded : Modes::output, p + i)), ...);
      });
      for (Index t = 0; t < length; ++t) {
        Register sum = Register::load_aligned(output_ + t * lanes);
        const T* after = states_ + (t + 1) * modes_at_once * number_size;
        expanded<Width>([&](auto... i) {
          ((sum = real_multiply_add(C[i], load_number<T, Arch, 2>(after + i * number_size), sum)),
           ...);
        });
        sum.store_aligned(output_ + t * lanes);
      }
    }

    /// λ_t = w·C*·g_t + Ā*·λ_{t+1} for `Width` modes, and what it adds to du and to the sums for Ā,
    /// B̄, C.
    template <bool Folded, int Width>
    void run_adjoint(Index p, Index slot, Index length) const {
      Number A[Width], B[Width], C[Width], lambda[Width], sum_A[Width], sum_B[Width], sum_C[Width];
      unrolled<Width>([&](auto i) {
        A[i] = conjugate(coefficients_.load(Modes::decay, p + i));
        B[i] = conjugate(coefficients_.load(Folded ? Modes::folded : Modes::input, p + i));
        C[i] = conjugate(coefficients_.load(Modes::output, p + i));
        sum_A[i] = load_number<T, Arch, 2>(sums_.A + (p + i) * number_size);
        sum_B[i] = load_number<T, Arch, 2>(sums_.B + (p + i) * number_size);
        sum_C[i] = load_number<T, Arch, 2>(sums_.C + (p + i) * number_size);
      });
      const auto add_position = [&](Index t, auto&& next_lambda) {
        const Register u = Register::load_aligned(u_ + t * lanes);
        const Register gradient = Register::load_aligned(gradient_ + t * lanes);
        Register du = Register::load_aligned(du_ + t * lanes);
        const T* before = states_ + (t * modes_at_once + slot) * number_size;
        unrolled<Width>([&](auto i) {
          if constexpr (Folded)
            lambda[i] = next_lambda(i, gradient);
          else
            lambda[i] = next_lambda(i, C[i] * gradient);
          du = real_multiply_add(B[i], lambda[i], du);
          sum_B[i] = multiply_add(lambda[i], u, sum_B[i]);
          const Number x = load_number<T, Arch, 2>(before + i * number_size);
          sum_A[i] = conjugate_multiply_add(lambda[i], x, sum_A[i]);
          if constexpr (!Folded) {
            const T* after = before + (modes_at_once + i) * number_size;
            sum_C[i] = conjugate_multiply_add(gradient, load_number<T, Arch, 2>(after), sum_C[i]);
          }
        });
        du.store_aligned(du_ + t * lanes);
      };
      T* carry = adjoint_ + p * number_size;  // Ā*·λ of the position after the chunk
      add_position(length - 1, [&](auto i, const auto& input) {
        return input + load_number<T, Arch, 2>(carry + i * number_size);
      });
      for (Index t = length - 2; t >= 0; --t)
        add_position(
            t, [&](auto i, const auto& input) { return multiply_add(A[i], lambda[i], input); });
      unrolled<Width>([&](auto i) {
        store_number<T, Arch>(carry + i * number_size, A[i] * lambda[i]);
        store_number<T, Arch>(sums_.A + (p + i) * number_size, sum_A[i]);
        store_number<T, Arch>(sums_.B + (p + i) * number_size, sum_B[i]);
        if constexpr (!Folded) store_number<T, Arch>(sums_.C + (p + i) * number_size, sum_C[i]);
      });
    }

    [[gnu::noinline]] void store_gradients(Index first, Index length) const {
      const auto in = [&](const View<const T, 3>& v) {
        return Positions<const T, Arch>(v, sequence_.batch, channel_, count_);
      };
      const auto out = [&](const View<T, 3>& v) {
        return Positions<T, Arch>(v, sequence_.batch, channel_, count_);
      };
      const auto x = in(a_.x), gate_in = in(a_.gate_in), dy = in(g_.dy);
      const auto dx = out(g_.dx), dgate_in = out(g_.dgate_in), dgate_out = out(g_.dgate_out);
      for (Index t = 0; t < length; ++t) {
        const Register du = Register::load_aligned(du_ + t * lanes);
        if (dgate_in) dgate_in.store(first + t, du * x.load(first + t));
        if (dx) dx.store(first + t, gate_in ? du * gate_in.load(first + t) : du);
        if (dgate_out)
          dgate_out.store(first + t,
                          dy.load(first + t) * Register::load_aligned(output_ + t * lanes));
      }
    }

    const ssm::DiagonalScanBackward<T, HostSpace>& g_;
    const ssm::DiagonalScan<T, HostSpace>& a_;
    const Modes& modes_;
    typename Modes::Block coefficients_;
    Sequence sequence_;
    Index block_, channel_, count_;
    Sums sums_;
    T *adjoint_, *u_, *gradient_, *du_, *output_, *states_, *boundary_;
  };
};

}  // namespace ssm::cpu
