// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/number.hpp"
#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/op/diagonal_parameters.hpp"

namespace ssm::cpu {

/// ssm::diagonal_parameters, a register of modes at a time.
template <class Arch>
struct DiagonalParameters {
  template <class Ctx, Real T>
  static void diagonal_parameters(Ctx& ctx,
                                  const ssm::DiagonalParameters<T, typename Ctx::Space>& a) {
    const Rows<const T, Arch> log_dt(a.log_dt), inv_A_real(a.inv_A_real), A_imag(a.A_imag);
    const Rows<T, Arch> dt(a.dt);
    const Threads threads = ctx.resources().threads();
    constexpr Index lanes = lane_count<T, Arch>;
    parallel_pieces(threads, 1, a.log_dt ? a.dt.extent(0) : 0, lanes,
                    [&](Index, Index r, Index count) {
                      dt.store(0, r, count, xsimd::exp(log_dt.load(0, r, count)));
                    });
    parallel_pieces(threads, a.A.extent(0), a.A.extent(1), lanes,
                    [&](Index r, Index p, Index count) {
                      const auto real = -xsimd::exp(inv_A_real.load(r, p, count));
                      T* to = &a.A(r, p, 0);
                      if (A_imag)
                        scatter_numbers<T, Arch, 2>(to, a.A.stride(1), a.A.stride(2), count,
                                                    {real, A_imag.load(r, p, count)});
                      else
                        scatter<T, Arch>(to, a.A.stride(1), count, real);
                    });
  }

  template <class Ctx, Real T>
  static void diagonal_parameters_backward(
      Ctx& ctx, const ssm::DiagonalParametersBackward<T, typename Ctx::Space>& g) {
    const Rows<T, Arch> dinv_A_real(g.dinv_A_real), dA_imag(g.dA_imag);
    constexpr Index lanes = lane_count<T, Arch>;
    for (Index r = 0; g.dt && r < g.dt.extent(0); ++r) g.dlog_dt(r) += g.dt(r) * g.ddt(r);
    const auto part = [](const View<const T, 3>& view, Index index) {
      return Rows<const T, Arch>(view.select(2, index));
    };
    const auto real = part(g.A, 0);
    const auto dreal = part(g.dA, 0);
    const auto dimag = part(g.dA, g.dA.extent(2) - 1);
    parallel_pieces(ctx.resources().threads(), g.A.extent(0), g.A.extent(1), lanes,
                    [&](Index r, Index p, Index count) {
                      dinv_A_real.store(r, p, count,
                                        xsimd::fma(real.load(r, p, count), dreal.load(r, p, count),
                                                   dinv_A_real.load(r, p, count)));
                      if (dA_imag)
                        dA_imag.store(r, p, count,
                                      dA_imag.load(r, p, count) + dimag.load(r, p, count));
                    });
  }
};

}  // namespace ssm::cpu
