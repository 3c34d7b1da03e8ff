// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/diagonal_modes.hpp"

namespace ssm::cpu {

/// DiagonalScan over a single position: the modes lie in lanes, as they do in memory, so that a
/// step reads the coefficients and the state once and rearranges nothing.
template <class T, class Arch>
class DiagonalScanStep {
 public:
  template <class Ctx>
  static void run(Ctx& ctx, const ssm::DiagonalScan<T, HostSpace>& a) {
    const Threads threads = ctx.resources().threads();
    const Index rows = a.A.extent(0);
    const Index modes = a.A.extent(1);
    const Index pieces = (modes + lanes - 1) / lanes;
    auto frame = ctx.workspace().frame();
    const auto scratch = frame.template tensor<T>(threads, pieces, 3 * number_size);
    const Index grain = 4096 / std::max<Index>(1, modes);
    parallel(threads, rows, grain, [&](Range range, int worker) {
      for (Index r = range.begin; r < range.end; ++r) {
        T* coefficients = &scratch(worker, 0, 0);
        for (Index i = 0; i < pieces; ++i)
          prepare(a, r, i * lanes, coefficients + i * 3 * number_size);
        for (Index d = r; d < a.x.extent(2); d += rows)
          for (Index b = 0; b < a.x.extent(0); ++b) step(a, b, d, r, coefficients);
      }
    });
  }

 private:
  using Register = Batch<T, Arch>;
  using Number = Complex<Batch<T, Arch>>;
  static constexpr Index lanes = lane_count<T, Arch>;
  static constexpr Index number_size = 2 * lanes;

  static void prepare(const ssm::DiagonalScan<T, HostSpace>& a, Index r, Index p, T* to) {
    const Index count = std::min(lanes, a.A.extent(1) - p);
    const auto numbers = [&](const View<const T, 3>& view) {
      return gather_numbers<T, Arch, 2>(&view(r, p, 0), view.stride(1), view.stride(2), count,
                                        view.extent(2));
    };
    const Register dt(a.dt(r));
    Number decay, gain;
    if (a.discretization == Discretization::bilinear) {
      bilinear_factors(dt, numbers(a.A), decay, gain);
    } else {
      const auto factors = step_factors(a.discretization, dt, numbers(a.A));
      decay = factors.decay;
      gain = factors.gain;
    }
    store_number<T, Arch>(to, decay);
    store_number<T, Arch>(to + number_size, (dt * numbers(a.B)) * gain);
    store_number<T, Arch>(to + 2 * number_size,
                          Register(static_cast<T>(a.A.extent(2))) * numbers(a.C));
  }

  static void step(const ssm::DiagonalScan<T, HostSpace>& a, Index b, Index d, Index r,
                   const T* coefficients) {
    const T u = a.gate_in ? a.gate_in(b, 0, d) * a.x(b, 0, d) : a.x(b, 0, d);
    const Index modes = a.A.extent(1);
    Register sum(T{0});
    for (Index p = 0; p < modes; p += lanes, coefficients += 3 * number_size) {
      const Index count = std::min(lanes, modes - p);
      const auto A = load_number<T, Arch, 2>(coefficients);
      Number state = load_number<T, Arch, 2>(coefficients + number_size) * Register(u);
      if (const auto& from = a.initial_state)
        state = multiply_add(A,
                             gather_numbers<T, Arch, 2>(&from(b, d, p, 0), from.stride(2),
                                                        from.stride(3), count, from.extent(3)),
                             state);
      if (const auto& to = a.final_state)
        scatter_numbers<T, Arch, 2>(&to(b, d, p, 0), to.stride(2), to.stride(3), count, state,
                                    to.extent(3));
      // C is zero beyond the last mode
      sum = real_multiply_add(load_number<T, Arch, 2>(coefficients + 2 * number_size), state, sum);
    }
    T y = sum_of_lanes(sum);
    if (a.skip) y += a.skip(r) * u;
    a.y(b, 0, d) = a.gate_out ? a.gate_out(b, 0, d) * y : y;
  }
};

}  // namespace ssm::cpu
