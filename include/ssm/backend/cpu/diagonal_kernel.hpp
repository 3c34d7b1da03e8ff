// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/diagonal_powers.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/transpose.hpp"
#include "ssm/core/workspace.hpp"
#include "ssm/op/diagonal_kernel.hpp"

namespace ssm::cpu {

/// The rows of DiagonalKernel as products of two short tables of powers.
///   kernel[width·j + i] = Σ_p Re(w·C·B̄·Ā^(width·j)) · Re(Ā^i) − Im(…) · Im(…)
template <class T, class Arch, int Parts>
class DiagonalKernelForward {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DiagonalKernel<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Powers powers(a.A.extent(1), a.kernel.extent(1));
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(
        threads, powers.depth() * (2 * powers.width() + powers.blocks()) + powers.padded_length());
    const Index rows = powers.padded_length() == 0 ? 0 : a.A.extent(0);
    parallel(threads, rows, 1, [&](Range range, int worker) {
      for (Index r = range.begin; r < range.end; ++r) compute(a, powers, r, &scratch(worker, 0));
    });
  }

 private:
  using Powers = DiagonalPowers<T, Arch, Parts>;
  using Row = DiagonalRow<T, Arch, Parts>;
  static constexpr Index lanes = lane_count<T, Arch>;

  static void compute(const ssm::DiagonalKernel<T, HostSpace>& a, const Powers& powers, Index r,
                      T* scratch) {
    const Index depth = powers.depth(), width = powers.width();
    T* near_rows = scratch;                     // [width][depth]: Ā^i
    T* near = near_rows + depth * width;        // the same turned, in panels of positions
    T* far = near + depth * width;              // [blocks][depth]: conj(w·C·B̄·Ā^(width·j))
    T* kernel = far + depth * powers.blocks();  // [blocks][width]
    const Row row(a, r);
    for (Index piece = 0; piece < powers.pieces(); ++piece) {
      const auto mode = row.at(piece);
      auto power = typename Powers::Double(1.0) + typename Powers::Double(0.0) * mode.decay;
      for (Index i = 0; i < width; ++i, power = power * mode.decay)
        powers.template put<1>(near_rows + i * depth, piece, power);
      auto start = typename Powers::Double(Parts) * (mode.C * mode.input);
      for (Index j = 0; j < powers.blocks(); ++j, start = start * power)
        powers.template put<-1>(far + j * depth, piece, start);
    }
    for (Index i = 0; i < width; i += lanes)
      for (Index k = 0; k < depth; k += lanes)
        turn(near_rows + i * depth + k, depth,
             near + (i / Powers::panel * depth + k) * Powers::panel + i % Powers::panel);
    powers.multiply(far, depth, near, depth, width, kernel);
    for (Index l = 0; l < a.kernel.extent(1); ++l) a.kernel(r, l) = kernel[l];
  }

  /// A square of registers, from rows `stride` apart to rows of a panel.
  static void turn(const T* from, Index stride, T* to) {
    Batch<T, Arch> tile[lanes];
    for (Index i = 0; i < lanes; ++i) tile[i] = Batch<T, Arch>::load_aligned(from + i * stride);
    Transposition<T, Arch>::run(tile);
    for (Index i = 0; i < lanes; ++i) tile[i].store_aligned(to + i * Powers::panel);
  }
};

/// The gradient of DiagonalKernel. With h = Σ_l dkernel[l]·Ā^l and s = Σ_l dkernel[l]·l·Ā^(l−1),
/// again split in two tables,
///   dC = conj(w·B̄·h),  dB̄ = conj(w·C·h),  dĀ = conj(w·C·B̄·s)
template <class T, class Arch, int Parts>
class DiagonalKernelGradient {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DiagonalKernelBackward<T, HostSpace>& g) {
    const Threads threads = ctx.resources().threads();
    const Powers powers(g.forward.A.extent(1), g.dkernel.extent(1));
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(
        threads, 2 * powers.depth() * (powers.width() + powers.blocks()) + powers.padded_length());
    parallel(threads, g.forward.A.extent(0), 1, [&](Range range, int worker) {
      for (Index r = range.begin; r < range.end; ++r) add_row(g, powers, r, &scratch(worker, 0));
    });
  }

 private:
  using Powers = DiagonalPowers<T, Arch, Parts>;
  using Row = DiagonalRow<T, Arch, Parts>;
  using Double = typename Powers::Double;
  using Number = typename Powers::Number;

  static void add_row(const ssm::DiagonalKernelBackward<T, HostSpace>& g, const Powers& powers,
                      Index r, T* scratch) {
    const Index depth = powers.depth(), width = powers.width();
    T* near = scratch;  // [2·depth][width] in panels of modes: Ā^i and i·Ā^(i−1)
    T* sums = near + 2 * depth * width;  // [blocks][2·depth]: of their products with dkernel
    T* dkernel = sums + 2 * depth * powers.blocks();  // [blocks][width]
    const Index length = g.dkernel.extent(1);
    for (Index l = 0; l < length; ++l) dkernel[l] = g.dkernel(r, l);
    std::fill_n(dkernel + length, powers.padded_length() - length, T{0});
    const Row row(g.forward, r);
    for (Index piece = 0; piece < powers.pieces(); ++piece)
      fill_near(powers, row.at(piece).decay, piece, near);
    powers.multiply(dkernel, width, near, width, 2 * depth, sums);
    Double ddt(0.0);
    for (Index piece = 0; piece < powers.pieces(); ++piece) {
      const auto mode = row.at(piece);
      const auto [h, s] = total(powers, mode.decay, piece, sums);
      const Number weight = Double(Parts) * mode.C;
      const auto gradient =
          step_gradient(g.forward.discretization, row.dt(), mode.A, mode.B,
                        conjugate(weight * mode.input * s), conjugate(weight * h));
      ddt += gradient.ddt;
      row.add(g.dA, piece, gradient.dA);
      row.add(g.dB, piece, gradient.dB);
      row.add(g.dC, piece, Double(Parts) * conjugate(mode.input * h));
    }
    g.ddt(r) += static_cast<T>(sum_of_lanes(ddt));  // modes beyond the last have no gradient
  }

  static void fill_near(const Powers& powers, const Number& decay, Index piece, T* near) {
    Number power = Double(1.0) + Double(0.0) * decay;
    Number slope = Double(0.0) * decay;
    for (Index i = 0; i < powers.width(); ++i) {
      powers.template put_in_panels<0>(near, i, piece, power);
      powers.template put_in_panels<1>(near, i, piece, slope);
      slope = slope * decay + power;
      power = power * decay;
    }
  }

  struct Totals {
    Number h, s;
  };
  static Totals total(const Powers& powers, const Number& decay, Index piece, const T* sums) {
    Number step = Double(1.0) + Double(0.0) * decay;  // Ā^width
    Number step_slope = Double(0.0) * decay;          // width·Ā^(width−1)
    for (Index i = 0; i < powers.width(); ++i) {
      step_slope = step_slope * decay + step;
      step = step * decay;
    }
    Number power = Double(1.0) + Double(0.0) * decay;  // Ā^(width·j)
    Number slope = Double(0.0) * decay;
    Totals totals{.h = slope, .s = slope};
    for (Index j = 0; j < powers.blocks(); ++j) {
      const T* block = sums + j * 2 * powers.depth();
      const Number plain = powers.get(block, piece),
                   sloped = powers.get(block + powers.depth(), piece);
      totals.h = totals.h + power * plain;
      totals.s = totals.s + slope * plain + power * sloped;
      slope = slope * step + power * step_slope;
      power = power * step;
    }
    return totals;
  }
};

/// ssm::diagonal_kernel: rows in parallel.
template <class Arch>
struct DiagonalKernel {
  template <class Ctx, Real T>
  static void diagonal_kernel(Ctx& ctx, const ssm::DiagonalKernel<T, typename Ctx::Space>& a) {
    with_parts(a.A.extent(2),
               [&](auto parts) { DiagonalKernelForward<T, Arch, parts()>::run(ctx, a); });
  }

  template <class Ctx, Real T>
  static void diagonal_kernel_backward(
      Ctx& ctx, const ssm::DiagonalKernelBackward<T, typename Ctx::Space>& g) {
    with_parts(g.forward.A.extent(2),
               [&](auto parts) { DiagonalKernelGradient<T, Arch, parts()>::run(ctx, g); });
  }
};

}  // namespace ssm::cpu
