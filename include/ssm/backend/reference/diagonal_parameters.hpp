// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/op/diagonal_parameters.hpp"

namespace ssm::reference {

/// DiagonalParameters, one mode at a time.
struct DiagonalParameters {
  template <class Ctx, Real T>
  static void diagonal_parameters(Ctx&, const ssm::DiagonalParameters<T, typename Ctx::Space>& a) {
    for (Index r = 0; r < a.inv_A_real.extent(0); ++r) {
      if (a.log_dt) a.dt(r) = static_cast<T>(std::exp(double{a.log_dt(r)}));
      for (Index p = 0; p < a.inv_A_real.extent(1); ++p) {
        a.A(r, p, 0) = static_cast<T>(-std::exp(double{a.inv_A_real(r, p)}));
        if (a.A_imag) a.A(r, p, 1) = a.A_imag(r, p);
      }
    }
  }

  template <class Ctx, Real T>
  static void diagonal_parameters_backward(
      Ctx&, const ssm::DiagonalParametersBackward<T, typename Ctx::Space>& g) {
    for (Index r = 0; r < g.A.extent(0); ++r) {
      if (g.dt) g.dlog_dt(r) += g.dt(r) * g.ddt(r);
      for (Index p = 0; p < g.A.extent(1); ++p) {
        g.dinv_A_real(r, p) += g.A(r, p, 0) * g.dA(r, p, 0);
        if (g.dA_imag) g.dA_imag(r, p) += g.dA(r, p, 1);
      }
    }
  }
};

}  // namespace ssm::reference
