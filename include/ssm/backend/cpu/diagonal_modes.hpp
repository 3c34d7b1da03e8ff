// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>

#include "ssm/backend/cpu/discretize.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::cpu {

/// The coefficients of DiagonalScan, one channel in each lane, computed once per call.
template <class T, class Arch>
class DiagonalModes {
 public:
  using Register = Batch<T, Arch>;
  using Number = Complex<Batch<T, Arch>>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index number_size = 2 * lanes;  // scalars
  static constexpr int group = 4;                  // modes that the recurrences take together

  /// What is kept of a mode: Ā, B̄, w·C and w·C·B̄.
  enum Coefficient { decay, input, output, folded };

  template <class Frame>
  DiagonalModes(Frame& frame, const Threads& threads, const ssm::DiagonalScan<T, HostSpace>& a)
      : a_(a),
        rows_(a.A.extent(0)),
        modes_((a.A.extent(1) + group - 1) / group * group),
        patterns_(std::min(blocks(), rows_ / std::gcd(rows_, lanes))),
        memory_(frame.template tensor<T>(patterns_, 4, modes_, number_size)) {
    constexpr Index grain = 256;  // modes of a block
    parallel(threads, patterns_ * modes_, grain, [&](Range range, int) {
      for (Index i = range.begin; i < range.end; ++i) prepare(i / modes_, i % modes_);
    });
  }

  /// A whole number of groups; modes beyond the last have zero coefficients, and therefore stay
  /// zero.
  Index modes() const { return modes_; }
  /// Registers that cover the channels; block g reads the coefficients of pattern g mod patterns().
  Index blocks() const { return (a_.x.extent(2) + lanes - 1) / lanes; }
  Index patterns() const { return patterns_; }
  Index row(Index block, Index lane) const { return (block * lanes + lane) % rows_; }

  /// The coefficients of a block of channels, ready for an inner loop.
  struct Block {
    const T* coefficients;
    Index modes;
    Number load(Coefficient which, Index mode) const {
      return load_number<T, Arch, 2>(coefficients + (which * modes + mode) * number_size);
    }
  };
  Block block(Index index) const { return {&memory_(index % patterns_, 0, 0, 0), modes_}; }

  /// One number per lane of a [R, P, 1|2] operand, or one per lane of a [R] operand.
  Number gather_numbers(const View<const T, 3>& view, Index block, Index mode) const {
    alignas(64) T buffer[number_size];
    for (Index lane = 0; lane < lanes; ++lane)
      for (Index part = 0; part < 2; ++part)
        buffer[part * lanes + lane] =
            part < view.extent(2) ? view(row(block, lane), mode, part) : T{0};
    return load_number<T, Arch, 2>(buffer);
  }
  Register gather_rows(const View<const T, 1>& view, Index block) const {
    alignas(64) T buffer[lanes];
    for (Index lane = 0; lane < lanes; ++lane) buffer[lane] = view(row(block, lane));
    return Register::load_aligned(buffer);
  }

 private:
  void prepare(Index pattern, Index mode) {
    if (mode >= a_.A.extent(1)) {
      for (const Coefficient which : {decay, input, output, folded})
        std::fill_n(&memory_(pattern, which, mode, 0), number_size, T{0});
      return;
    }
    const Register dt = gather_rows(a_.dt, pattern);
    const auto factors = step_factors(a_.discretization, dt, gather_numbers(a_.A, pattern, mode));
    const Number B = (dt * gather_numbers(a_.B, pattern, mode)) * factors.gain;
    const Number C = Register(static_cast<T>(a_.A.extent(2))) * gather_numbers(a_.C, pattern, mode);
    store_number<T, Arch>(&memory_(pattern, decay, mode, 0), factors.decay);
    store_number<T, Arch>(&memory_(pattern, input, mode, 0), B);
    store_number<T, Arch>(&memory_(pattern, output, mode, 0), C);
    store_number<T, Arch>(&memory_(pattern, folded, mode, 0), C * B);
  }

  const ssm::DiagonalScan<T, HostSpace>& a_;
  Index rows_;
  Index modes_;
  Index patterns_;
  View<T, 4> memory_;
};

}  // namespace ssm::cpu
