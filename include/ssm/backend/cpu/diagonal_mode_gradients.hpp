// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/diagonal_modes.hpp"

namespace ssm::cpu {

/// Sums over positions for the gradients of Ā, B̄ and C, kept per slot of sequences and block of
/// channels, and their way back through the discretization to dt, A, B, C.
template <class T, class Arch>
class DiagonalModeGradients {
 public:
  using Modes = DiagonalModes<T, Arch>;
  using Register = typename Modes::Register;
  using Number = typename Modes::Number;
  static constexpr Index lanes = Modes::lanes;
  static constexpr Index number_size = Modes::number_size;

  /// Of one slot and block: [P][1|2][lanes] each, and [lanes].
  struct Sums {
    T *A, *B, *C, *dskip;
  };

  template <class Frame>
  DiagonalModeGradients(Frame& frame, const Modes& modes, Index slots)
      : modes_(modes),
        sums_(frame.template tensor<T>(slots, modes.blocks(), 3, modes.modes(), number_size)),
        dskip_(frame.template tensor<T>(slots, modes.blocks(), lanes)),
        ddt_(frame.template tensor<T>(modes.patterns(), modes.modes(), lanes)) {
    std::fill_n(sums_.data(), sums_.size(), T{0});
    std::fill_n(dskip_.data(), dskip_.size(), T{0});
  }

  Sums sums(Index slot, Index block) const {
    return {&sums_(slot, block, 0, 0, 0), &sums_(slot, block, 1, 0, 0),
            &sums_(slot, block, 2, 0, 0), &dskip_(slot, block, 0)};
  }

  /// From Σ μ·x′* and Σ μ·u to the sums with B̄ and w·C in them.
  void unfold(Index slot, Index block) const {
    const Sums at = sums(slot, block);
    const auto coefficients = modes_.block(block);
    for (Index p = 0; p < modes_.modes(); ++p) {
      const Number sum = load_number<T, Arch, 2>(at.B + p * number_size);
      const Number sum_A = load_number<T, Arch, 2>(at.A + p * number_size);
      const auto factor = [&](auto which) { return conjugate(coefficients.load(which, p)); };
      store_number<T, Arch>(at.A + p * number_size, factor(Modes::folded) * sum_A);
      store_number<T, Arch>(at.B + p * number_size, factor(Modes::output) * sum);
      store_number<T, Arch>(at.C + p * number_size, factor(Modes::input) * sum);
    }
  }

  /// Adds everything to the gradients of the parameters: modes in parallel, slots and blocks in
  /// order.
  void add_to(const Threads& threads, const ssm::DiagonalScanBackward<T, HostSpace>& g) {
    constexpr Index grain = 4;  // modes
    parallel(threads, g.forward.A.extent(1), grain, [&](Range range, int) {
      for (Index p = range.begin; p < range.end; ++p)
        for (Index pattern = 0; pattern < modes_.patterns(); ++pattern) add_mode(g, pattern, p);
    });
    for (Index pattern = 0; pattern < modes_.patterns(); ++pattern) {
      Register ddt(T{0});
      for (Index p = 0; p < g.forward.A.extent(1); ++p)
        ddt += Register::load_aligned(&ddt_(pattern, p, 0));
      add_rows(g.ddt, pattern, ddt);
      Register dskip(T{0});
      for_each_block(pattern, [&](Index slot, Index block) {
        dskip += Register::load_aligned(&dskip_(slot, block, 0));
      });
      add_rows(g.dskip, pattern, dskip);
    }
  }

 private:
  template <class F>
  void for_each_block(Index pattern, F&& body) const {
    for (Index slot = 0; slot < sums_.extent(0); ++slot)
      for (Index block = pattern; block < modes_.blocks(); block += modes_.patterns())
        body(slot, block);
  }

  void add_mode(const ssm::DiagonalScanBackward<T, HostSpace>& g, Index pattern, Index p) const {
    const auto& a = g.forward;
    Number total[3] = {load_number<T, Arch, 2>(zeros), load_number<T, Arch, 2>(zeros),
                       load_number<T, Arch, 2>(zeros)};
    for_each_block(pattern, [&](Index slot, Index block) {
      for (Index i = 0; i < 3; ++i)
        total[i] = total[i] + load_number<T, Arch, 2>(&sums_(slot, block, i, p, 0));
    });
    const Register dt = modes_.gather_rows(a.dt, pattern);
    const Number A = modes_.gather_numbers(a.A, pattern, p);
    const Number B = modes_.gather_numbers(a.B, pattern, p);
    const auto gradient = step_gradient(a.discretization, dt, A, B, total[0], total[1]);
    gradient.ddt.store_aligned(&ddt_(pattern, p, 0));
    add_numbers(g.dA, pattern, p, gradient.dA);
    add_numbers(g.dB, pattern, p, gradient.dB);
    add_numbers(g.dC, pattern, p, Register(static_cast<T>(a.A.extent(2))) * total[2]);
  }

  /// Lanes beyond the channels repeat other rows; their sums are zero because their inputs are.
  void add_numbers(const View<T, 3>& to, Index pattern, Index p, const Number& value) const {
    if (!to) return;
    alignas(64) T buffer[number_size];
    store_number<T, Arch>(buffer, value);
    for (Index part = 0; part < to.extent(2); ++part)
      for (Index lane = 0; lane < lanes; ++lane)
        to(modes_.row(pattern, lane), p, part) += buffer[part * lanes + lane];
  }
  void add_rows(const View<T, 1>& to, Index pattern, const Register& value) const {
    if (!to) return;
    alignas(64) T buffer[lanes];
    value.store_aligned(buffer);
    for (Index lane = 0; lane < lanes; ++lane) to(modes_.row(pattern, lane)) += buffer[lane];
  }

  alignas(64) static constexpr T zeros[static_cast<std::size_t>(number_size)] = {};
  const Modes& modes_;
  View<T, 5> sums_;
  View<T, 3> dskip_;
  View<T, 3> ddt_;
};

}  // namespace ssm::cpu
