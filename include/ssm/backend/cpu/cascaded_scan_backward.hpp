// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>

#include "ssm/backend/cpu/cascaded_scan_block.hpp"
#include "ssm/backend/cpu/lane_sums.hpp"
#include "ssm/backend/cpu/selective_sums.hpp"

namespace ssm::cpu {

/// The gradient of CascadedScan. A first pass keeps the states of all scans at every `chunk`
/// positions; then, from the last chunk to the first, those inside are computed again, a group at a
/// time, and the adjoints run back over them: the cascaded scan's first, whose gated adjoints are
/// what enters the sources' ones.
template <class T, class Arch>
class CascadedScanBackward {
 public:
  using Operands = ssm::CascadedScanBackward<T, HostSpace>;

  template <class Ctx>
  static void run(Ctx& ctx, const Operands& g) {
    const auto& a = g.forward;
    const Threads threads = ctx.resources().threads();
    const Index batch = a.dt.extent(0), length = a.dt.extent(1);
    auto frame = ctx.workspace().frame();
    const CascadedModes<T, Arch> modes(frame, threads, a);
    constexpr Index max_slots = 8;
    const ChannelUnits units(threads, sequence_count(batch, a.segments), modes.own().blocks(),
                             max_slots, Modes::largest_group);
    std::array<std::optional<Sums>, CascadedModes<T, Arch>::max_scans> sums;
    for (std::size_t i = 0; i < modes.scans(); ++i)
      sums[i].emplace(frame, modes.of(i), units, batch, length);
    const Index scans = static_cast<Index>(modes.scans());
    const Index boundaries = length / chunk + 2;
    const auto scratch = frame.template tensor<T>(
        threads, (Block::scratch_size(modes.scans(), true) + scans * (chunk * 2 + 2) +
                  scans * modes.own().padded() * (boundaries + 1 + chunk) + 2 * chunk) *
                     lanes);
    const bool worth_sharing = a.dt.size() * modes.own().size() * scans >= 8192;
    parallel(threads, units.size(), worth_sharing ? 1 : units.size(), [&](Range range, int worker) {
      for (Index i = range.begin; i < range.end; ++i) {
        const Range slot = units.slot(i);
        const Range blocks = units.group(i);
        for (Index s = slot.begin; s < slot.end; ++s)
          for (Index block = blocks.begin; block < blocks.end; ++block)
            CascadedScanBackward(g, modes, sums, sequence_at(s, length, a.segments), block,
                                 {i / units.groups, i % units.groups, block == blocks.begin},
                                 &scratch(worker, 0))
                .run();
      }
    });
    for (std::size_t i = 0; i < modes.sources(); ++i)
      if (!g.dsources.empty())
        sums[i]->add_to(threads,
                        {.accumulate = true, .dA = g.dsources[i].A, .dB = g.dsources[i].B});
    sums[modes.sources()]->add_to(threads, {.dA = g.dA, .dC = g.dC});
  }

 private:
  using Register = Batch<T, Arch>;
  using Modes = SelectiveModes<T, Arch>;
  using Sums = SelectiveSums<T, Arch>;
  using Block = CascadedBlock<T, Arch>;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index chunk = Block::chunk;
  static constexpr int group = Block::group;

  /// Where sums over sequences and over channels go.
  struct Place {
    Index slot, group;
    bool is_first_block;  // of its group: it writes sums over channels, the others add
  };

  CascadedScanBackward(
      const Operands& g, const CascadedModes<T, Arch>& modes,
      const std::array<std::optional<Sums>, CascadedModes<T, Arch>::max_scans>& sums, Sequence s,
      Index index, Place place, T* memory)
      : g_(g),
        modes_(modes),
        sums_(sums),
        sequence_(s),
        index_(index),
        place_(place),
        block_(modes, s, index, memory),
        size_(modes.own().padded() * lanes),
        rows_(memory + Block::scratch_size(modes.scans(), true) * lanes),
        shared_(rows_ + (static_cast<Index>(modes.scans()) * 2 + 2) * chunk * lanes),
        adjoints_(shared_ + static_cast<Index>(modes.scans()) * chunk * size_),
        boundaries_(adjoints_ + static_cast<Index>(modes.scans()) * size_) {}

  static Register at(const T* rows, Index i) { return Block::at(rows, i); }
  static void put(T* rows, Index i, const Register& value) { Block::put(rows, i, value); }

  T* dinput(std::size_t scan) const { return rows_ + 2 * static_cast<Index>(scan) * chunk * lanes; }
  T* drate(std::size_t scan) const { return dinput(scan) + chunk * lanes; }
  T* dy() const { return dinput(modes_.scans()); }
  T* dgate() const { return dy() + chunk * lanes; }
  /// What is summed over channels, [chunk][N]: the gradient of a source's B, of the cascaded scan's
  /// C.
  T* shared(std::size_t scan) const { return shared_ + static_cast<Index>(scan) * chunk * size_; }
  T* adjoint(std::size_t scan) const { return adjoints_ + static_cast<Index>(scan) * size_; }
  T* boundary(Index c) const {
    return boundaries_ + c * static_cast<Index>(modes_.scans()) * size_;
  }
  T* parameters(std::size_t scan) const { return sums_[scan]->parameters(place_.slot, index_); }
  Index begin(Index c) const { return sequence_.begin + c * chunk; }
  Index length(Index c) const { return std::min(chunk, sequence_.end - begin(c)); }

  void run() const {
    const Index chunks = (sequence_.end - sequence_.begin + chunk - 1) / chunk;
    block_.read_states(boundary(0));
    std::fill_n(adjoints_, static_cast<Index>(modes_.scans()) * size_, T{0});
    Block::States::read(g_.dfinal_state, sequence_.row, index_ * lanes, count(),
                        adjoint(modes_.sources()), size_);
    for (Index c = 0; c + 1 < chunks; ++c) {
      block_.load(begin(c), length(c));
      for (Index n = 0; n < modes_.own().padded(); n += group)
        block_.template advance<false>(begin(c), length(c), n, boundary(c), boundary(c + 1));
    }
    for (Index c = chunks - 1; c >= 0; --c) run_chunk(c);
    for (std::size_t i = 0; i < modes_.scans(); ++i) store_adjoint(i);
  }

  Index count() const { return modes_.own().count(index_); }

  void run_chunk(Index c) const {
    const std::size_t own = modes_.sources();
    block_.load(begin(c), length(c));
    const auto from = block_.positions(g_.dy);
    for (Index t = 0; t < length(c); ++t) put(dy(), t, from.load(begin(c) + t));
    std::fill_n(dgate(), chunk * lanes, T{0});
    for (std::size_t i = 0; i < modes_.scans(); ++i)
      std::fill_n(dinput(i), 2 * chunk * lanes, T{0});
    for (Index n = 0; n < modes_.own().padded(); n += group) {
      block_.template advance<true>(begin(c), length(c), n, boundary(c), nullptr);
      run_own(c, n);
      for (std::size_t i = 0; i < own; ++i) run_source(i, c, n);
    }
    store_gradients(c);
    for (std::size_t i = 0; i < modes_.scans(); ++i) store_shared(i, c);
  }

  /// Runs an adjoint back over a group of states: enter(which, t) is what enters it, seen(which, t,
  /// λ) sees it.
  template <class Enter, class See>
  [[gnu::always_inline]] void run_back(std::size_t scan, Index c, Index n, Enter&& enter,
                                       See&& see) const {
    Register carry[group], rate[group], dA[group];
    T* const sums = parameters(scan);
    unrolled<group>([&](auto i) {
      carry[i] = at(adjoint(scan), n + i);
      rate[i] = at(modes_.of(scan).rates(index_), n + i);
      dA[i] = at(sums, n + i);
    });
    for (Index t = length(c) - 1; t >= 0; --t) {
      const Register dt = at(block_.dt(scan), t);
      Register sum = at(drate(scan), t);
      unrolled<group>([&](auto i) {
        const Index place = t * group + i;
        const Register lambda = carry[i] + enter(i, t);
        see(i, t, lambda);
        carry[i] = lambda * at(block_.decays(scan), place);
        const Register decayed = carry[i] * at(block_.states(scan), place);
        sum = xsimd::fma(rate[i], decayed, sum);
        dA[i] = xsimd::fma(dt, decayed, dA[i]);
      });
      put(drate(scan), t, sum);
    }
    unrolled<group>([&](auto i) {
      put(adjoint(scan), n + i, carry[i]);
      put(sums, n + i, dA[i]);
    });
  }

  /// λ_t = C_t·dy_t + exp(Δ_{t+1}·A)·λ_{t+1}; leaves gate·λ where the sum of the sources' states
  /// was.
  void run_own(Index c, Index n) const {
    const std::size_t own = modes_.sources();
    const auto& C = modes_.own().C();
    const T* const first = block_.first(C, begin(c), n);
    Register sum(T{0});
    run_back(
        own, c, n,
        [&](auto i, Index t) {
          return Register(Register(first[t * C.stride(1) + i]) * at(dy(), t));
        },
        [&](auto i, Index t, const Register& lambda) {
          const Register after = at(block_.states(own), (t + 1) * group + i);
          put(shared(own) + t * size_, n + i, at(dy(), t) * after);
          if (own == 0) return;
          const Index place = t * group + i;
          if constexpr (i() == 0) sum = at(dgate(), t);
          sum = xsimd::fma(lambda, at(block_.drive(), place), sum);
          if constexpr (i() == group - 1) put(dgate(), t, sum);
          put(block_.drive(), place, lambda * at(block_.input(own), t));
        });
  }

  void run_source(std::size_t scan, Index c, Index n) const {
    const auto& B = modes_.of(scan).B();
    const T* const first = block_.first(B, begin(c), n);
    Register sum(T{0});
    run_back(
        scan, c, n, [&](auto i, Index t) { return at(block_.drive(), t * group + i); },
        [&](auto i, Index t, const Register& lambda) {
          put(shared(scan) + t * size_, n + i, lambda * at(block_.input(scan), t));
          if constexpr (i() == 0) sum = at(dinput(scan), t);
          sum = xsimd::fma(lambda, Register(first[t * B.stride(1) + i]), sum);
          if constexpr (i() == group - 1) put(dinput(scan), t, sum);
        });
  }

  void store_gradients(Index c) const {
    const auto add = [](const Positions<T, Arch>& to, Index t, const Register& value) {
      if (to) to.store(t, to.load(t) + value);
    };
    const Register scale(static_cast<T>(ln_of_2));  // rates are to the base 2
    for (std::size_t i = 0; i < g_.dsources.size(); ++i) {
      const auto du = block_.positions(g_.dsources[i].u);
      const auto ddt = block_.positions(g_.dsources[i].dt);
      for (Index t = 0; t < length(c); ++t) {
        const Register in = at(dinput(i), t);
        add(du, begin(c) + t, in * at(block_.dt(i), t));
        add(ddt, begin(c) + t,
            xsimd::fma(in, at(block_.u(i), t), Register(at(drate(i), t) * scale)));
      }
    }
    const auto ddt = block_.positions(g_.ddt), to_gate = block_.positions(g_.dgate);
    for (Index t = 0; t < length(c); ++t) {
      if (ddt) ddt.store(begin(c) + t, at(drate(modes_.sources()), t) * scale);
      if (to_gate) to_gate.store(begin(c) + t, at(dgate(), t));
    }
  }

  void store_shared(std::size_t scan, Index c) const {
    const Index size = modes_.own().size(), padded = modes_.own().padded();
    const Index offset = scan == modes_.sources() ? size : 0;  // behind B's sums are C's
    for (Index t = 0; t < length(c); ++t) {
      T* const to = sums_[scan]->shared(place_.group, sequence_.batch, begin(c) + t) + offset;
      for (Index n = 0; n < size; n += lanes) {
        Register rows[lanes];
        for (Index i = 0; i < lanes; ++i)
          rows[i] = at(shared(scan) + t * size_, std::min(n + i, padded - 1));
        const Index some = std::min(lanes, size - n);
        Register sum = lane_sums<T, Arch>(rows);
        if (!place_.is_first_block) sum += gather<T, Arch>(to + n, 1, some);
        scatter<T, Arch>(to + n, 1, some, sum);
      }
    }
  }

  void store_adjoint(std::size_t scan) const {
    const bool is_source = scan < modes_.sources();
    View<T, 3> to = g_.dinitial_state;
    if (is_source) to = g_.dsources.empty() ? View<T, 3>() : g_.dsources[scan].initial_state;
    if (!to) return;
    for (Index lane = 0; lane < count(); ++lane)
      for (Index n = 0; n < modes_.own().size(); ++n) {
        T& element = to(sequence_.row, index_ * lanes + lane, n);
        element = adjoint(scan)[n * lanes + lane] + (is_source ? element : T{0});
      }
  }

  const Operands& g_;
  const CascadedModes<T, Arch>& modes_;
  const std::array<std::optional<Sums>, CascadedModes<T, Arch>::max_scans>& sums_;
  Sequence sequence_;
  Index index_;
  Place place_;
  Block block_;
  Index size_;
  T *rows_, *shared_, *adjoints_, *boundaries_;
};

}  // namespace ssm::cpu
