// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/reference/number.hpp"
#include "ssm/op/diagonal_kernel.hpp"

namespace ssm::reference {

/// DiagonalKernel by repeated multiplication, in double precision.
struct DiagonalKernel {
  template <class Ctx, Real T>
  static void diagonal_kernel(Ctx& ctx, const ssm::DiagonalKernel<T, typename Ctx::Space>& a) {
    with_number(a.A.extent(2), [&](auto zero) { run<decltype(zero)>(ctx, a); });
  }

  template <class Ctx, Real T>
  static void diagonal_kernel_backward(
      Ctx&, const ssm::DiagonalKernelBackward<T, typename Ctx::Space>& g) {
    with_number(g.forward.A.extent(2), [&](auto zero) {
      for (Index r = 0; r < g.forward.A.extent(0); ++r)
        for (Index p = 0; p < g.forward.A.extent(1); ++p) mode_backward<decltype(zero)>(g, r, p);
    });
  }

 private:
  template <class Z, class T, class Space>
  static DiscreteMode<Z> mode_at(const ssm::DiagonalKernel<T, Space>& a, Index r, Index p) {
    return discretize(a.discretization, double{a.dt(r)}, number_at<Z>(a.A, r, p),
                      number_at<Z>(a.B, r, p));
  }

  template <class Z, class Ctx, class T>
  static void run(Ctx& ctx, const ssm::DiagonalKernel<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    const auto row = frame.template tensor<double>(a.kernel.extent(1));
    for (Index r = 0; r < a.A.extent(0); ++r) {
      for (Index l = 0; l < row.extent(0); ++l) row(l) = 0;
      for (Index p = 0; p < a.A.extent(1); ++p) {
        const auto mode = mode_at<Z>(a, r, p);
        Z term = number_at<Z>(a.C, r, p) * mode.B;  // C·B̄·Āˡ
        for (Index l = 0; l < row.extent(0); ++l) {
          row(l) += mode_weight<Z> * real_part(term);
          term = term * mode.A;
        }
      }
      for (Index l = 0; l < row.extent(0); ++l) a.kernel(r, l) = static_cast<T>(row(l));
    }
  }

  /// With kernel[l] = w·Re(v·Āˡ) and v = C·B̄:
  ///   dv = w·Σ dkernel[l]·conj(Āˡ)
  ///   dĀ = w·conj(v)·Σ dkernel[l]·l·conj(Āˡ⁻¹)
  template <class Z, class T, class Space>
  static void mode_backward(const ssm::DiagonalKernelBackward<T, Space>& g, Index r, Index p) {
    const auto& a = g.forward;
    const auto mode = mode_at<Z>(a, r, p);
    const Z C = number_at<Z>(a.C, r, p);
    Z dv{};
    Z slopes{};
    Z power{1.0};
    Z slope{};  // l·Āˡ⁻¹
    for (Index l = 0; l < g.dkernel.extent(1); ++l) {
      const double dkernel = mode_weight<Z> * g.dkernel(r, l);
      dv += dkernel * conjugate(power);
      slopes += dkernel * conjugate(slope);
      slope = power + mode.A * slope;
      power = power * mode.A;
    }
    const auto gradient = discretize_backward(
        a.discretization, double{a.dt(r)}, number_at<Z>(a.A, r, p), number_at<Z>(a.B, r, p),
        DiscreteMode<Z>{.A = slopes * conjugate(C * mode.B), .B = dv * conjugate(C)});
    add_number(g.dC, dv * conjugate(mode.B), r, p);
    add_number(g.dA, gradient.dA, r, p);
    add_number(g.dB, gradient.dB, r, p);
    g.ddt(r) += static_cast<T>(gradient.ddt);
  }
};

}  // namespace ssm::reference
