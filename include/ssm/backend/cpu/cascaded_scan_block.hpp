// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>

#include "ssm/backend/cpu/channel_states.hpp"
#include "ssm/backend/cpu/selective_modes.hpp"
#include "ssm/op/cascaded_scan.hpp"

namespace ssm::cpu {

/// What CascadedScan's kernels share for a whole call: rates, B and C as SelectiveScan's kernels
/// want them, of the sources in their order and of the cascaded scan after them.
template <class T, class Arch>
class CascadedModes {
 public:
  using Modes = SelectiveModes<T, Arch>;
  static constexpr std::size_t max_scans = ssm::CascadedScan<T, HostSpace>::max_sources + 1;

  template <class Frame>
  CascadedModes(Frame& frame, const Threads& threads, const ssm::CascadedScan<T, HostSpace>& a)
      : a_(a), sources_(a.sources.size()) {
    for (std::size_t i = 0; i < sources_; ++i) {
      scans_[i] = {.A = a.sources[i].A, .B = a.sources[i].B};
      all_[i].emplace(frame, threads, scans_[i]);
    }
    scans_[sources_] = {.A = a.A, .C = a.C};
    all_[sources_].emplace(frame, threads, scans_[sources_]);
  }

  const ssm::CascadedScan<T, HostSpace>& operands() const { return a_; }
  std::size_t sources() const { return sources_; }
  std::size_t scans() const { return sources_ + 1; }
  const Modes& of(std::size_t scan) const { return *all_[scan]; }
  const Modes& own() const { return *all_[sources_]; }
  View<const T, 3> initial_state(std::size_t scan) const {
    if (scan == sources_) return a_.initial_state;
    return a_.sources[scan].initial_state;
  }

 private:
  const ssm::CascadedScan<T, HostSpace>& a_;
  std::size_t sources_;
  std::array<ssm::SelectiveScan<T, HostSpace>, max_scans> scans_{};
  std::array<std::optional<Modes>, max_scans> all_;
};

/// One block of channels of one sequence, a channel in each lane, some positions at a time. Within
/// them a group of states of all sources goes first, and what they add up to then drives the same
/// group of the cascaded scan.
template <class T, class Arch>
class CascadedBlock {
 public:
  using Register = Batch<T, Arch>;
  using Modes = SelectiveModes<T, Arch>;
  using States = ChannelStates<T, Arch>;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index chunk = 32;  // positions
  static constexpr int group = Modes::group;

  /// Registers of scratch memory; with Keep, states and decays of a chunk are kept too.
  static Index scratch_size(std::size_t scans, bool keep) {
    const auto count = static_cast<Index>(scans);
    const Index kept = keep ? (2 * chunk + 1) * group : 0;
    return count * (rows_per_scan * chunk + kept) + chunk * (group + 1);
  }

  CascadedBlock(const CascadedModes<T, Arch>& modes, Sequence s, Index block, T* scratch)
      : modes_(modes), sequence_(s), block_(block), memory_(scratch) {}

  static Register at(const T* rows, Index i) { return Register::load_aligned(rows + i * lanes); }
  static void put(T* rows, Index i, const Register& value) {
    value.store_aligned(rows + i * lanes);
  }

  // Rows of a chunk, [chunk][lanes]; the cascaded scan has a gate where the others have an input.
  T* dt(std::size_t scan) const { return row(scan, 0); }
  T* input(std::size_t scan) const { return row(scan, 1); }
  T* u(std::size_t scan) const { return row(scan, 2); }
  T* y() const { return memory_ + modes_.scans() * rows_per_scan * chunk * lanes; }
  T* drive() const { return y() + chunk * lanes; }  // [chunk][group]
  // Kept: states before every position and at the end, [chunk + 1][group], and by what they decay,
  // [chunk][group].
  T* states(std::size_t scan) const {
    return drive() + (group * chunk + static_cast<Index>(scan) * (2 * chunk + 1) * group) * lanes;
  }
  T* decays(std::size_t scan) const { return states(scan) + (chunk + 1) * group * lanes; }

  template <class V>
  Positions<typename V::Element, Arch> positions(const V& view) const {
    return {view, sequence_.batch, block_ * lanes, modes_.own().count(block_)};
  }

  void load(Index begin, Index length) const {
    const auto& a = modes_.operands();
    for (std::size_t i = 0; i < modes_.sources(); ++i) {
      const auto from = positions(View<const T, 3>(a.sources[i].u));
      const auto dt_in = positions(View<const T, 3>(a.sources[i].dt));
      for (Index t = 0; t < length; ++t) {
        const Register in = from.load(begin + t), by = dt_in.load(begin + t);
        put(u(i), t, in);
        put(dt(i), t, by);
        put(input(i), t, in * by);
      }
    }
    const std::size_t own = modes_.sources();
    const auto dt_in = positions(a.dt), gate = positions(a.gate);
    for (Index t = 0; t < length; ++t) {
      put(dt(own), t, dt_in.load(begin + t));
      put(input(own), t, own > 0 ? gate.load(begin + t) : Register(T{0}));
      put(y(), t, Register(T{0}));
    }
  }

  /// Advances a group of states of all scans from `from` to `to`, [scan][N], and adds what is read
  /// to y. With Keep the states go to the scratch in place of `to`.
  template <bool Keep>
  void advance(Index begin, Index length, Index n, const T* from, T* to) const {
    const Index size = modes_.own().padded() * lanes;
    for (std::size_t i = 0; i < modes_.sources(); ++i) {
      const Index at_scan = static_cast<Index>(i) * size;
      const auto& B = modes_.of(i).B();
      const T* B_t = first(B, begin, n);
      run<Keep>(i, length, n, from + at_scan, Keep ? nullptr : to + at_scan,
                [&](auto g, Index t, const Register& decay, const Register& state) {
                  const Register next = xsimd::fma(
                      decay, state, at(input(i), t) * Register(B_t[t * B.stride(1) + g]));
                  const Index place = t * group + g;
                  put(drive(), place, i == 0 ? next : at(drive(), place) + next);
                  return next;
                });
    }
    const std::size_t own = modes_.sources();
    const Index at_scan = static_cast<Index>(own) * size;
    const auto& C = modes_.own().C();
    const T* C_t = first(C, begin, n);
    Register sum(T{0});  // of a position, over the group: in a register, not in its row
    run<Keep>(own, length, n, from + at_scan, Keep ? nullptr : to + at_scan,
              [&](auto g, Index t, const Register& decay, const Register& state) {
                Register next = decay * state;
                if (own > 0) next = xsimd::fma(at(input(own), t), at(drive(), t * group + g), next);
                if constexpr (g() == 0) sum = at(y(), t);
                sum = xsimd::fma(Register(C_t[t * C.stride(1) + g]), next, sum);
                if constexpr (g() == group - 1) put(y(), t, sum);
                return next;
              });
  }

  const T* first(const View<const T, 3>& view, Index begin, Index n) const {
    return view.data() + sequence_.batch * view.stride(0) + begin * view.stride(1) + n;
  }

  void read_states(T* to) const {
    const Index size = modes_.own().padded() * lanes;
    for (std::size_t i = 0; i < modes_.scans(); ++i)
      States::read(modes_.initial_state(i), sequence_.row, block_ * lanes,
                   modes_.own().count(block_), to + static_cast<Index>(i) * size, size);
  }

 private:
  static constexpr Index rows_per_scan = 3;

  T* row(std::size_t scan, Index i) const {
    return memory_ + (static_cast<Index>(scan) * rows_per_scan + i) * chunk * lanes;
  }

  /// next(which of the group, t, decay, state) at every position.
  template <bool Keep, class Next>
  [[gnu::always_inline]] void run(std::size_t scan, Index length, Index n, const T* from, T* to,
                                  Next&& next) const {
    Register state[group], rate[group];
    unrolled<group>([&](auto g) {
      state[g] = at(from, n + g);
      rate[g] = at(modes_.of(scan).rates(block_), n + g);
    });
    for (Index t = 0; t < length; ++t) {
      const Register by = at(dt(scan), t);
      unrolled<group>([&](auto g) {
        const Register decay = exp2_of(Register(by * rate[g]));
        if constexpr (Keep) {
          put(states(scan), t * group + g, state[g]);
          put(decays(scan), t * group + g, decay);
        }
        state[g] = next(g, t, decay, state[g]);
      });
    }
    unrolled<group>([&](auto g) {
      if constexpr (Keep)
        put(states(scan), length * group + g, state[g]);
      else
        put(to, n + g, state[g]);
    });
  }

  const CascadedModes<T, Arch>& modes_;
  Sequence sequence_;
  Index block_;
  T* memory_;
};

}  // namespace ssm::cpu
