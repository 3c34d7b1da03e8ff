// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm {

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
    requires(Context<B>& ctx, const DiagonalParameters<T, typename B::Space>& a,
             const DiagonalParametersBackward<T, typename B::Space>& g) {
  B::diagonal_parameters(ctx, a);
  B::diagonal_parameters_backward(ctx, g);
};

/// Computes DiagonalParameters, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalParameters<B, T>
void diagonal_parameters(Context<B>& ctx, const DiagonalParameters<T, typename B::Space>& a) {
  const char* op = "diagonal_parameters";
  require_extents(op, "inv_A_real", a.inv_A_real, {dyn, dyn});
  const Index rows = a.inv_A_real.extent(0);
  const Index modes = a.inv_A_real.extent(1);
  require_extents_if_given(op, "log_dt", a.log_dt, {rows});
  require_extents_if_given(op, "A_imag", a.A_imag, {rows, modes});
  if (a.log_dt) require_extents(op, "dt", a.dt, {rows});
  require_extents(op, "A", a.A, {rows, modes, a.A_imag ? 2 : 1});
  B::diagonal_parameters(ctx, a);
}

/// Computes DiagonalParametersBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalParameters<B, T>
void diagonal_parameters_backward(Context<B>& ctx,
                                  const DiagonalParametersBackward<T, typename B::Space>& g) {
  const char* op = "diagonal_parameters_backward";
  require_extents(op, "A", g.A, {dyn, dyn, g.dA_imag ? 2 : 1});
  const Index rows = g.A.extent(0);
  const Index modes = g.A.extent(1);
  require_extents_if_given(op, "dt", g.dt, {rows});
  if (g.dt) require_extents(op, "ddt", g.ddt, {rows});
  require_extents(op, "dA", g.dA, g.A.extents().to_array());
  if (g.dt) require_extents(op, "dlog_dt", g.dlog_dt, {rows});
  require_extents(op, "dinv_A_real", g.dinv_A_real, {rows, modes});
  require_extents_if_given(op, "dA_imag", g.dA_imag, {rows, modes});
  B::diagonal_parameters_backward(ctx, g);
}

}  // namespace ssm
