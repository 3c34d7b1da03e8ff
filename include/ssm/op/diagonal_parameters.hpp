// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"

namespace ssm {

template <class T, class Space>
struct DiagonalParametersBackward;

/// From what is learned to what the dynamics use: a positive step and eigenvalues with negative
/// real part.
///   dt = exp(log_dt)       A = −exp(inv_A_real) + i·A_imag
/// log_dt      [R]           log-seconds; left out where steps come from elsewhere, then so is dt
/// inv_A_real  [R, P]
/// A_imag      [R, P]        left out for real modes
/// dt          [R]           overwritten
/// A           [R, P, 1|2]   overwritten; 2 with A_imag, 1 without
/// Throws  ShapeError
/// Source  HazyResearch/H3, SSKernelDiag
template <class T, class Space>
struct DiagonalParameters {
  View<const T, 1, Space> log_dt{};
  View<const T, 2, Space> inv_A_real{};
  View<const T, 2, Space> A_imag{};
  View<T, 1, Space> dt{};
  View<T, 3, Space> A{};

  static constexpr const char* name = "diagonal_parameters";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = DiagonalParametersBackward<T, Space>;
    visit(parameter("inv_A_real", "RP").with_gradient(), &DiagonalParameters::inv_A_real,
          &Gradient::dinv_A_real);
    visit(parameter("log_dt", "R").optional(), &DiagonalParameters::log_dt, &Gradient::dlog_dt);
    visit(parameter("A_imag", "RP").optional(), &DiagonalParameters::A_imag, &Gradient::dA_imag);
    visit(output("dt", "R").optional(), &DiagonalParameters::dt, &Gradient::ddt);
    visit(output("A", "RPZ"), &DiagonalParameters::A, &Gradient::dA);
    visit(again("dt", "R").optional(), &DiagonalParameters::dt, &Gradient::dt);
    visit(again("A", "RPZ"), &DiagonalParameters::A, &Gradient::A);
  }
  void fix_extents(ExtentsByLetter& n) const { n.set('Z', A_imag ? 2 : 1); }
  void require_rest(const ExtentsByLetter& n) const {
    if (log_dt && !dt) n.refuse("dt", "is missing");
  }
};

/// The vector–Jacobian product of DiagonalParameters; every gradient is added to.
///   dlog_dt += dt·ddt      dinv_A_real += Re(A)·Re(dA)      dA_imag += Im(dA)
template <class T, class Space>
struct DiagonalParametersBackward {
  View<const T, 1, Space>
      dt{};  // left out, with both its gradients, where the forward call had none
  View<const T, 3, Space> A{};
  View<const T, 1, Space> ddt{};
  View<const T, 3, Space> dA{};
  View<T, 1, Space> dlog_dt{};
  View<T, 2, Space> dinv_A_real{};
  View<T, 2, Space> dA_imag{};  // left out for real modes
};

/// Backends that have the primitive DiagonalParameters.
template <class B, class T = float>
concept HasDiagonalParameters =
    requires(Context<B>& ctx, const DiagonalParameters<Wide<T>, typename B::Space>& a,
             const DiagonalParametersBackward<Wide<T>, typename B::Space>& g) {
  B::diagonal_parameters(ctx, a);
  B::diagonal_parameters_backward(ctx, g);
};

/// Computes DiagonalParameters, whose docstring says the rest.
template <class B, Real T>
  requires HasDiagonalParameters<B, T>
void diagonal_parameters(Context<B>& ctx, const DiagonalParameters<T, typename B::Space>& a) {
  require_operands(a);
  B::diagonal_parameters(ctx, a);
}

/// Computes DiagonalParametersBackward, whose docstring says the rest.
template <class B, Real T>
  requires HasDiagonalParameters<B, T>
void diagonal_parameters_backward(Context<B>& ctx,
                                  const DiagonalParametersBackward<T, typename B::Space>& g) {
  require_gradients<DiagonalParameters<T, typename B::Space>>(g);
  B::diagonal_parameters_backward(ctx, g);
}

}  // namespace ssm
