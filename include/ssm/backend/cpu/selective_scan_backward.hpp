// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/lane_sums.hpp"
#include "ssm/backend/cpu/selective_modes.hpp"
#include "ssm/backend/cpu/selective_sums.hpp"

namespace ssm::cpu {

/// The gradient of SelectiveScan with a channel in each lane. A first pass keeps the state at every
/// `chunk` positions; then, from the last chunk to the first, the states inside are computed again,
/// some at a time, and the adjoint runs back over them, all within the first-level cache.
template <class T, class Arch>
class SelectiveScanBackward {
 public:
  using Operands = ssm::SelectiveScanBackward<T, HostSpace>;

  template <class Ctx>
  static void run(Ctx& ctx, const Operands& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    const Index batch = a.u.extent(0);
    const Index length = a.u.extent(1);
    auto frame = ctx.workspace().frame();
    const Modes modes(frame, threads, a);
    constexpr Index max_slots = 8;
    const ChannelUnits units(threads, sequence_count(batch, a.segments), modes.blocks(), max_slots,
                             Modes::largest_group);
    const Sums sums(frame, modes, units, batch, length);
    const Index boundaries = length / chunk + 2;
    const auto scratch = frame.template tensor<T>(
        threads, (units.widest_group() * (boundaries + 1) + 2 * chunk) * modes.padded() * lanes +
                     Scratch::size);
    const bool worth_sharing = a.u.size() * modes.size() >= 8192;
    parallel(threads, units.size(), worth_sharing ? 1 : units.size(), [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Range slot = units.slot(i);
        for (Index s = slot.begin; s < slot.end; ++s)
          Group(g, modes, sums, sequence_at(s, length, a.segments), i / units.groups,
                i % units.groups, units.group(i), &scratch(worker, 0))
              .run();
      }
    });
    sums.add_to(threads, g);
  }

 private:
  using Register = Batch<T, Arch>;
  using Modes = SelectiveModes<T, Arch>;
  using States = ChannelStates<T, Arch>;
  using Sums = SelectiveSums<T, Arch>;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index chunk = 32;  // positions
  static constexpr int group = Modes::group;

  static Register at(const T* rows, Index i) { return Register::load_aligned(rows + i * lanes); }
  static void put(T* rows, Index i, const Register& value) {
    value.store_aligned(rows + i * lanes);
  }

  /// What one block needs while it works on one chunk: a register a position each, and a group of
  /// states. One pointer, so that the compiler sees all distances.
  struct Scratch {
    T* memory;
    static constexpr Index row = chunk * lanes;
    static constexpr Index size = (9 + 2 * group) * row + group * lanes;

    T* u() const { return memory; }
    T* dt() const { return memory + row; }            // Δ
    T* input() const { return memory + 2 * row; }     // Δ·u
    T* slope() const { return memory + 3 * row; }     // ∂Δ / ∂dt
    T* gradient() const { return memory + 4 * row; }  // of the sum over the states, behind the gate
    T* dgate() const { return memory + 5 * row; }     // dy·silu′(gate)
    T* output() const { return memory + 6 * row; }    // the sum over the states, and the skip
    T* dinput() const { return memory + 7 * row; }    // its gradient by Δ·u
    T* drate() const { return memory + 8 * row; }     // Σ λ·(A·log₂e)·decayed state
    T* decays() const { return memory + 9 * row; }    // [chunk][group]
    T* states() const { return decays() + group * row; }  // [chunk + 1][group]
  };

  /// One sequence of one group of blocks.
  class Group {
   public:
    Group(const Operands& g, const Modes& modes, const Sums& sums, Sequence s, Index slot,
          Index index, Range blocks, T* memory)
        : g_(g),
          a_(g.forward),
          modes_(modes),
          sums_(sums),
          sequence_(s),
          slot_(slot),
          index_(index),
          blocks_(blocks),
          chunks_((s.end - s.begin + chunk - 1) / chunk),
          scratch_{memory},
          shared_(memory + Scratch::size),
          adjoints_(shared_ + 2 * chunk * modes.padded() * lanes),
          boundaries_(adjoints_ + (blocks.end - blocks.begin) * modes.padded() * lanes) {}

    void run() const {
      const Index size = modes_.padded() * lanes;
      for_each_block([&](Index block) {
        read_states(a_.initial_state, block, boundary(block, 0));
        read_states(g_.dfinal_state, block, adjoint(block));
      });
      for (Index c = 0; c + 1 < chunks_; ++c)
        for_each_block([&](Index block) {
          load_dt(block, c);
          for (Index n = 0; n < modes_.padded(); n += group)
            run_states<false>(block, c, n, boundary(block, c), boundary(block, c + 1));
        });
      for (Index c = chunks_ - 1; c >= 0; --c) {
        std::fill_n(shared_, 2 * chunk * size, T{0});
        for_each_block([&](Index block) { run_chunk(block, c); });
        store_shared(c);
      }
      if (g_.dinitial_state) for_each_block([&](Index block) { write_adjoint(block); });
    }

   private:
    template <class F>
    void for_each_block(F&& body) const {
      for (Index block = blocks_.begin; block < blocks_.end; ++block) body(block);
    }
    template <class V>
    Positions<typename V::Element, Arch> positions(const V& view, Index block) const {
      return {view, sequence_.batch, block * lanes, modes_.count(block)};
    }
    template <class V>
    void read_states(const V& view, Index block, T* to) const {
      States::read(view, sequence_.row, block * lanes, modes_.count(block), to,
                   modes_.padded() * lanes);
    }
    T* adjoint(Index block) const {
      return adjoints_ + (block - blocks_.begin) * modes_.padded() * lanes;
    }
    T* boundary(Index block, Index c) const {
      const Index width = blocks_.end - blocks_.begin;
      return boundaries_ + (c * width + block - blocks_.begin) * modes_.padded() * lanes;
    }
    const T* row(const View<const T, 3>& view, Index t, Index n) const {
      return view.data() + sequence_.batch * view.stride(0) + t * view.stride(1) + n;
    }
    /// The next block's rows on their way, while this one computes.
    template <class V>
    void fetch_next(const V& view, Index block, Index begin, Index length) const {
      if (view && block + 1 < blocks_.end)
        prefetch(view, sequence_.batch, begin, length, (block + 1) * lanes);
    }
    Index first(Index c) const { return sequence_.begin + c * chunk; }
    Index length(Index c) const { return std::min(chunk, sequence_.end - first(c)); }

    /// u, Δ, Δ·u and ∂Δ/∂dt of a chunk.
    void load_dt(Index block, Index c) const {
      const Scratch scratch = scratch_;
      const auto u = positions(a_.u, block), dt = positions(a_.dt, block);
      const Register bias = modes_.of_channels(a_.dt_bias, block);
      const Index begin = first(c), end = length(c);
      fetch_next(a_.u, block, begin, end);
      fetch_next(a_.dt, block, begin, end);
      for (Index i = 0; i < end; ++i) {
        const Register raw = dt.load(begin + i) + bias;
        const Register in = u.load(begin + i);
        Softplus<Register> used{raw, Register(T{1})};
        if (a_.dt_softplus) used = softplus_with_slope(raw);
        put(scratch.u(), i, in);
        put(scratch.dt(), i, used.value);
        put(scratch.input(), i, used.value * in);
        put(scratch.slope(), i, used.slope);
      }
    }

    void load_gradients(Index block, Index c) const {
      const Scratch scratch = scratch_;
      const auto dy = positions(g_.dy, block), gate = positions(a_.gate, block);
      const Register skip = modes_.of_channels(a_.skip, block);
      const Index begin = first(c), end = length(c);
      fetch_next(g_.dy, block, begin, end);
      fetch_next(a_.gate, block, begin, end);
      for (Index i = 0; i < end; ++i) {
        const Register from = dy.load(begin + i);
        Register gradient = from;
        if (gate) {
          const Register z = gate.load(begin + i);
          const Register s = sigmoid_of(z);
          gradient *= z * s;
          put(scratch.dgate(), i, from * s * xsimd::fma(z, Register(T{1}) - s, Register(T{1})));
        }
        put(scratch.gradient(), i, gradient);
        put(scratch.output(), i, skip * at(scratch.u(), i));
        put(scratch.dinput(), i, Register(T{0}));
        put(scratch.drate(), i, Register(T{0}));
      }
    }

    /// Advances a group of states over a chunk; with Keep, those before every position and at the
    /// end go to the scratch, and so do the factors by which they decay.
    template <bool Keep>
    void run_states(Index block, Index c, Index n, const T* from, T* to) const {
      const Scratch scratch = scratch_;
      Register state[group], rate[group];
      unrolled<group>([&](auto i) {
        state[i] = at(from, n + i);
        rate[i] = at(modes_.rates(block), n + i);
      });
      const Index stride = modes_.B().stride(1);
      const T* B = row(modes_.B(), first(c), n);
      const Index end = length(c);
      for (Index t = 0; t < end; ++t, B += stride) {
        const Register dt = at(scratch.dt(), t);
        const Register input = at(scratch.input(), t);
        unrolled<group>([&](auto i) {
          const Register decay = exp2_of(Register(dt * rate[i]));
          if constexpr (Keep) {
            put(scratch.states(), t * group + i, state[i]);
            put(scratch.decays(), t * group + i, decay);
          }
          state[i] = xsimd::fma(decay, state[i], input * Register(B[i()]));
        });
      }
      unrolled<group>([&](auto i) {
        if constexpr (Keep)
          put(scratch.states(), end * group + i, state[i]);
        else
          put(to, n + i, state[i]);
      });
    }

    void run_chunk(Index block, Index c) const {
      load_dt(block, c);
      load_gradients(block, c);
      for (Index n = 0; n < modes_.padded(); n += group) {
        run_states<true>(block, c, n, boundary(block, c), nullptr);
        run_adjoint(block, c, n);
      }
      store_gradients(block, c);
    }

    /// λ_t = C_t·g_t + exp(Δ_{t+1}·A)·λ_{t+1} for a group of states, and what it adds to every sum.
    void run_adjoint(Index block, Index c, Index n) const {
      const Scratch scratch = scratch_;
      Register carry[group], rate[group], dA[group];
      T* const sums = sums_.parameters(slot_, block);
      unrolled<group>([&](auto i) {
        carry[i] = at(adjoint(block), n + i);
        rate[i] = at(modes_.rates(block), n + i);
        dA[i] = at(sums, n + i);
      });
      const Index B_stride = modes_.B().stride(1), C_stride = modes_.C().stride(1);
      const T* const first_B = row(modes_.B(), first(c), n);
      const T* const first_C = row(modes_.C(), first(c), n);
      T* const sums_of_B = shared_ + n * chunk * 2 * lanes;
      for (Index t = length(c) - 1; t >= 0; --t) {
        const T *B = first_B + t * B_stride, *C = first_C + t * C_stride;
        T* const dB = sums_of_B + t * group * 2 * lanes;
        const Register gradient = at(scratch.gradient(), t);
        const Register input = at(scratch.input(), t);
        const Register dt = at(scratch.dt(), t);
        Register output = at(scratch.output(), t);
        Register dinput = at(scratch.dinput(), t);
        Register drate = at(scratch.drate(), t);
        unrolled<group>([&](auto i) {
          const Register after = at(scratch.states(), (t + 1) * group + i);
          const Register lambda = xsimd::fma(Register(C[i()]), gradient, carry[i]);
          put(dB, i, xsimd::fma(lambda, input, at(dB, i)));
          put(dB, group + i, xsimd::fma(gradient, after, at(dB, group + i)));
          output = xsimd::fma(Register(C[i()]), after, output);
          dinput = xsimd::fma(lambda, Register(B[i()]), dinput);
          carry[i] = lambda * at(scratch.decays(), t * group + i);
          const Register decayed = carry[i] * at(scratch.states(), t * group + i);
          drate = xsimd::fma(rate[i], decayed, drate);
          dA[i] = xsimd::fma(dt, decayed, dA[i]);
        });
        put(scratch.output(), t, output);
        put(scratch.dinput(), t, dinput);
        put(scratch.drate(), t, drate);
      }
      unrolled<group>([&](auto i) {
        put(adjoint(block), n + i, carry[i]);
        put(sums, n + i, dA[i]);
      });
    }

    /// Writes a gradient, or adds it.
    void store(const Positions<T, Arch>& to, Index t, const Register& value) const {
      to.store(t, g_.accumulate ? to.load(t) + value : value);
    }

    void store_gradients(Index block, Index c) const {
      const auto du = positions(g_.du, block), ddt = positions(g_.ddt, block),
                 dgate = positions(g_.dgate, block);
      const auto ddt_used = positions(g_.ddt_used, block);
      const Register skip = modes_.of_channels(a_.skip, block);
      T* const sums = sums_.parameters(slot_, block) + modes_.padded() * lanes;
      Register dskip = at(sums, 0), dbias = at(sums, 1);
      for (Index i = 0; i < length(c); ++i) {
        const Index t = first(c) + i;
        const Register u = at(scratch_.u(), i), gradient = at(scratch_.gradient(), i);
        const Register dinput = at(scratch_.dinput(), i);
        Register sum = xsimd::fma(u, dinput, at(scratch_.drate(), i) * Register(T(ln_of_2)));
        if (ddt_used) sum += ddt_used.load(t);
        sum *= at(scratch_.slope(), i);
        dbias += sum;
        dskip = xsimd::fma(u, gradient, dskip);
        if (ddt) store(ddt, t, sum);
        if (du) store(du, t, xsimd::fma(skip, gradient, dinput * at(scratch_.dt(), i)));
        if (dgate) store(dgate, t, at(scratch_.dgate(), i) * at(scratch_.output(), i));
      }
      put(sums, 0, dskip);
      put(sums, 1, dbias);
    }

    /// The group's part of the gradients of B and C: the sums over its channels.
    void store_shared(Index c) const {
      const Index size = modes_.size();
      for (Index t = 0; t < length(c); ++t) {
        T* to = sums_.shared(index_, sequence_.batch, first(c) + t);
        for (Index n = 0; n < size; n += lanes) {
          Register B[lanes], C[lanes];
          for (Index i = 0; i < lanes; ++i) {
            const Index state = std::min(n + i, size - 1);
            const T* from = shared_ + (state / group * group * chunk + t * group) * 2 * lanes;
            B[i] = at(from, state % group);
            C[i] = at(from, group + state % group);
          }
          const Index count = std::min(lanes, size - n);
          scatter<T, Arch>(to + n, 1, count, lane_sums<T, Arch>(B));
          scatter<T, Arch>(to + size + n, 1, count, lane_sums<T, Arch>(C));
        }
      }
    }

    void write_adjoint(Index block) const {
      const auto& to = g_.dinitial_state;
      const T* from = adjoint(block);
      for (Index lane = 0; lane < modes_.count(block); ++lane)
        for (Index n = 0; n < modes_.size(); ++n) {
          T& element = to(sequence_.row, block * lanes + lane, n);
          element = from[n * lanes + lane] + (g_.accumulate ? element : T{0});
        }
    }

    const Operands& g_;
    const ssm::SelectiveScan<T, HostSpace>& a_;
    const Modes& modes_;
    const Sums& sums_;
    Sequence sequence_;
    Index slot_, index_;
    Range blocks_;
    Index chunks_;
    Scratch scratch_;
    T *shared_, *adjoints_, *boundaries_;
  };
};

}  // namespace ssm::cpu
