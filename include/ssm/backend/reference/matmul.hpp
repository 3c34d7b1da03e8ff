// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/reference/activation.hpp"  // activate
#include "ssm/op/matmul.hpp"

namespace ssm::reference {

/// Matmul as three loops, summed in double precision.
struct Matmul {
  template <class Ctx, Real T>
  static void matmul(Ctx&, const ssm::Matmul<T, typename Ctx::Space>& a) {
    const auto b = [&](Index k, Index n) -> double {
      if (a.b_int8) return double{a.b_scale(n)} * a.b_int8(k, n);
      if (a.b_f16) return scalar_cast<double>(a.b_f16(k, n));
      return a.b_bf16 ? scalar_cast<double>(a.b_bf16(k, n)) : double{a.b(k, n)};
    };
    for (Index m = 0; m < a.c.extent(0); ++m) {
      for (Index n = 0; n < a.c.extent(1); ++n) {
        double z = a.bias ? double{a.bias(n)} : 0.0;
        for (Index k = 0; k < a.a.extent(1); ++k) z += double{a.a(m, k)} * b(k, n);
        if (a.z) a.z(m, n) = static_cast<T>(z);
        const double before = a.accumulate ? double{a.c(m, n)} : 0.0;
        const double residual = a.residual ? double{a.residual(m, n)} : 0.0;
        a.c(m, n) = static_cast<T>(before + activate(a.activation, z) + residual);
      }
      if (!a.a_sum) continue;
      double sum = 0;
      for (Index k = 0; k < a.a.extent(1); ++k) sum += a.a(m, k);
      a.a_sum(m) += static_cast<T>(sum);
    }
  }
};

}  // namespace ssm::reference
