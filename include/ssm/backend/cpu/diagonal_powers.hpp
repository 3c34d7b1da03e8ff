// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/discretize.hpp"
#include "ssm/backend/cpu/panel_product.hpp"
#include "ssm/op/diagonal_kernel.hpp"

namespace ssm::cpu {

/// What DiagonalKernel's row and its gradient share: positions l = width·j + i, powers Ā^l = (Ā^width)^j · Ā^i. Both tables of
/// powers are short and come from recurrences in double precision, so that the phase of Ā^l is exact to the rounding of
/// its two factors; everything of size L is a matrix product in T.
template <class T, class Arch, int Parts>
class DiagonalPowers {
 public:
  using Double = Batch<double, Arch>;
  using Number = NumberOf<double, Arch, Parts>;
  static constexpr Index piece = lane_count<double, Arch>;    // modes in a register
  static constexpr Index number_size = Parts * piece;         // doubles
  static constexpr int wide = 2;                              // registers of a panel
  static constexpr Index panel = wide * lane_count<T, Arch>;  // columns of a panel
  static constexpr int rows = sizeof(Double) == 64 ? 8 : 4;   // blocks a kernel takes

  DiagonalPowers(Index modes, Index length)
      : modes_(round_up(modes, lane_count<T, Arch>)), width_(panel) {
    while (width_ < 8 * panel && width_ * width_ < length) width_ += panel;
    blocks_ = round_up((length + width_ - 1) / width_, rows);
  }

  static Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }
  Index pieces() const { return modes_ / piece; }
  Index depth() const {
    return Parts * modes_;
  }                                         // of the products: real parts, then imaginary parts
  Index width() const { return width_; }    // positions of a block
  Index blocks() const { return blocks_; }  // whole rows of them
  Index padded_length() const { return blocks_ * width_; }

  /// Re z and, a mode table further, Sign·Im z of one piece of modes.
  template <int Sign>
  void put(T* row, Index i, const Number& z) const {
    alignas(64) double buffer[number_size];
    store_number<double, Arch>(buffer, z);
    for (Index lane = 0; lane < piece; ++lane) row[i * piece + lane] = static_cast<T>(buffer[lane]);
    if constexpr (Parts == 2)
      for (Index lane = 0; lane < piece; ++lane)
        row[modes_ + i * piece + lane] = static_cast<T>(Sign * buffer[piece + lane]);
  }
  /// The same as row i of a table in panels, of which `Table` says which half of the columns.
  template <int Table>
  void put_in_panels(T* table, Index i, Index which, const Number& z) const {
    alignas(64) double buffer[number_size];
    store_number<double, Arch>(buffer, z);
    for (Index part = 0; part < Parts; ++part) {
      const Index column = Table * depth() + part * modes_ + which * piece;
      T* to = table + (column / panel * width_ + i) * panel + column % panel;
      for (Index lane = 0; lane < piece; ++lane)
        to[lane] = static_cast<T>(buffer[part * piece + lane]);
    }
  }
  Number get(const T* row, Index i) const {
    alignas(64) double buffer[number_size];
    for (Index part = 0; part < Parts; ++part)
      for (Index lane = 0; lane < piece; ++lane)
        buffer[part * piece + lane] = static_cast<double>(row[part * modes_ + i * piece + lane]);
    return load_number<double, Arch, Parts>(buffer);
  }

  /// to[j][column] = Σ_k left[j][k] · right[k][column] for all blocks j; `right` and `columns` in panels.
  void multiply(const T* left, Index left_stride, const T* right, Index right_rows, Index columns,
                T* to) const {
    using Register = Batch<T, Arch>;
    for (Index column = 0; column < columns; column += panel, right += right_rows * panel)
      for (Index j = 0; j < blocks_; j += rows) {
        Register sums[rows * wide];
        unrolled<rows * wide>([&](auto r) { sums[r] = Register(T{0}); });
        add_panel_product<rows, wide, T, Arch>(
            left + j * left_stride, left_stride, std::integral_constant<Index, 1>{}, right,
            std::integral_constant<Index, panel>{}, right_rows, sums);
        unrolled<rows * wide>([&](auto r) {
          sums[r].store_aligned(to + (j + r / wide) * columns + column +
                                r % wide * lane_count<T, Arch>);
        });
      }
  }

 private:
  Index modes_;  // padded
  Index width_;
  Index blocks_ = 0;
};

/// The modes of one row in double precision, a register of them at a time.
template <class T, class Arch, int Parts>
class DiagonalRow {
 public:
  using Powers = DiagonalPowers<T, Arch, Parts>;
  using Double = typename Powers::Double;
  using Number = typename Powers::Number;
  static constexpr Index piece = Powers::piece;

  DiagonalRow(const ssm::DiagonalKernel<T, HostSpace>& a, Index row)
      : a_(a), row_(row), modes_(a.A.extent(1)), dt_(static_cast<double>(a.dt(row))) {}

  /// One mode of the row and what its step is made of.
  struct Mode {
    Number A, B, C;
    Number decay, input;  // Ā, B̄
  };
  Mode at(Index i) const {
    Mode mode{.A = read(a_.A, i), .B = read(a_.B, i), .C = read(a_.C, i), .decay = {}, .input = {}};
    const auto step = step_factors(a_.discretization, dt_, mode.A);
    mode.decay = step.decay;
    mode.input = (dt_ * mode.B) * step.gain;
    return mode;
  }
  const Double& dt() const { return dt_; }

  void add(const View<T, 3>& to, Index i, const Number& value) const {
    const Index first = i * piece;
    alignas(64) double buffer[Powers::number_size];
    store_number<double, Arch>(buffer, value);
    for (Index lane = 0; lane < std::min(piece, modes_ - first); ++lane)
      for (Index part = 0; part < Parts; ++part)
        to(row_, first + lane, part) += static_cast<T>(buffer[part * piece + lane]);
  }

 private:
  Number read(const View<const T, 3>& view, Index i) const {  // zero beyond the last mode
    const Index first = i * piece;
    alignas(64) double buffer[Powers::number_size] = {};
    for (Index lane = 0; lane < std::min(piece, modes_ - first); ++lane)
      for (Index part = 0; part < Parts; ++part)
        buffer[part * piece + lane] = static_cast<double>(view(row_, first + lane, part));
    return load_number<double, Arch, Parts>(buffer);
  }

  const ssm::DiagonalKernel<T, HostSpace>& a_;
  Index row_, modes_;
  Double dt_;
};

}  // namespace ssm::cpu
