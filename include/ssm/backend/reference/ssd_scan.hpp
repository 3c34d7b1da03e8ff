// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/op/ssd_scan.hpp"

namespace ssm::reference {

/// SsdScan as the recurrence it is, one head after the other, in double precision.
struct SsdScan {
  template <class Ctx, Real T>
  static void ssd_scan(Ctx& ctx, const ssm::SsdScan<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    const auto state = frame.template tensor<double>(a.x.extent(3), a.B.extent(3));
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index h = 0; h < a.x.extent(2); ++h) {
        load(a.initial_state, s.row, h, state);
        for (Index t = s.begin; t < s.end; ++t) {
          advance(a, s.batch, t, h, state, state);
          for (Index p = 0; p < a.x.extent(3); ++p)
            a.y(s.batch, t, h, p) = static_cast<T>(output(a, s.batch, t, h, p, state));
        }
        save(state, a.final_state, s.row, h);
      }
    });
  }

  template <class Ctx, Real T>
  static void ssd_scan_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index heads = a.x.extent(2), groups = a.B.extent(2), states = a.B.extent(3);
    auto frame = ctx.workspace().frame();
    const Sums sums{.A = frame.template tensor<double>(heads),
                    .skip = frame.template tensor<double>(heads),
                    .dt_bias = frame.template tensor<double>(heads),
                    .B = frame.template tensor<double>(a.x.extent(1), states),
                    .C = frame.template tensor<double>(a.x.extent(1), states)};
    set_zero(sums.A);
    set_zero(sums.skip);
    set_zero(sums.dt_bias);
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index group = 0; group < groups; ++group) {
        set_zero(sums.B);
        set_zero(sums.C);
        for (Index h = heads / groups * group; h < heads / groups * (group + 1); ++h)
          head_backward(ctx, g, s, h, sums);
        for (Index t = s.begin; t < s.end; ++t)
          for (Index n = 0; n < states; ++n) {
            if (g.dB) g.dB(s.batch, t, group, n) = static_cast<T>(sums.B(t, n));
            if (g.dC) g.dC(s.batch, t, group, n) = static_cast<T>(sums.C(t, n));
          }
      }
    });
    for (Index h = 0; h < heads; ++h) {
      if (g.dA) g.dA(h) += static_cast<T>(sums.A(h));
      if (g.dskip) g.dskip(h) += static_cast<T>(sums.skip(h));
      if (g.ddt_bias) g.ddt_bias(h) += static_cast<T>(sums.dt_bias(h));
    }
  }

  /// Δ_t
  template <class T, class Space>
  static double step(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h) {
    return std::clamp(free_step(a, b, t, h), a.dt_min, a.dt_max);
  }
  /// dΔ/d(dt + dt_bias)
  template <class T, class Space>
  static double step_slope(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h) {
    const double free = free_step(a, b, t, h);
    if (free < a.dt_min || free > a.dt_max) return 0;
    return a.dt_softplus ? 1 / (1 + std::exp(-raw_step(a, b, t, h))) : 1;
  }

 private:
  /// What is gathered from several heads or sequences.
  struct Sums {
    View<double, 1> A;
    View<double, 1> skip;
    View<double, 1> dt_bias;
    View<double, 2> B;  // of the sequence and group at hand, by position
    View<double, 2> C;
  };

  template <class V>
  static void set_zero(const V& sums) {
    std::fill_n(sums.data(), sums.size(), 0.0);
  }

  template <class V>
  static void load(const V& from, Index row, Index h, const View<double, 2>& state) {
    for (Index p = 0; p < state.extent(0); ++p)
      for (Index n = 0; n < state.extent(1); ++n)
        state(p, n) = from ? double{from(row, h, p, n)} : 0.0;
  }
  template <class V>
  static void save(const View<double, 2>& state, const V& to, Index row, Index h) {
    if (!to) return;
    for (Index p = 0; p < state.extent(0); ++p)
      for (Index n = 0; n < state.extent(1); ++n)
        to(row, h, p, n) = static_cast<typename V::Value>(state(p, n));
  }

  template <class T, class Space>
  static Index group_of(const ssm::SsdScan<T, Space>& a, Index h) {
    return h / (a.x.extent(2) / a.B.extent(2));
  }

  template <class T, class Space>
  static double raw_step(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h) {
    return double{a.dt(b, t, h)} + (a.dt_bias ? double{a.dt_bias(h)} : 0.0);
  }
  template <class T, class Space>
  static double free_step(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h) {
    const double raw = raw_step(a, b, t, h);
    return a.dt_softplus ? std::max(raw, 0.0) + std::log1p(std::exp(-std::abs(raw))) : raw;
  }
  template <class T, class Space>
  static void advance(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h,
                      const View<double, 2>& before, const View<double, 2>& after) {
    const double dt = step(a, b, t, h);
    const double decay = std::exp(dt * a.A(h));
    for (Index p = 0; p < after.extent(0); ++p)
      for (Index n = 0; n < after.extent(1); ++n)
        after(p, n) = decay * before(p, n) + dt * a.x(b, t, h, p) * a.B(b, t, group_of(a, h), n);
  }

  template <class T, class Space>
  static double output(const ssm::SsdScan<T, Space>& a, Index b, Index t, Index h, Index p,
                       const View<double, 2>& state) {
    double sum = a.skip ? double{a.skip(h)} * a.x(b, t, h, p) : 0.0;
    for (Index n = 0; n < state.extent(1); ++n) sum += a.C(b, t, group_of(a, h), n) * state(p, n);
    return sum;
  }

  /// One head of one sequence. The states are computed again and kept; then, with
  /// λ_t = ∂loss/∂state_t,
  ///   λ_t = dy_t ⊗ C_t + exp(Δ_{t+1}·A)·λ_{t+1}
  ///   dx_t = Δ_t·λ_t·B_t + skip·dy_t      dB_t += Δ_t·x_t·λ_t       dC_t += dy_t·state_t
  ///   dΔ_t = x_t·λ_t·B_t + A·c_t        dA += Δ_t·c_t
  ///   c_t  = exp(Δ_t·A)·⟨λ_t, state_{t−1}⟩
  template <class Ctx, Real T>
  static void head_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g,
                            Sequence s, Index h, const Sums& sums) {
    const auto& a = g.forward;
    const Index channels = a.x.extent(3), size = a.B.extent(3), group = group_of(a, h);
    const double skip = a.skip ? double{a.skip(h)} : 0.0;
    auto frame = ctx.workspace().frame();
    const auto states = frame.template tensor<double>(s.end - s.begin + 1, channels, size);
    load(a.initial_state, s.row, h, View<double, 2>(states.select(0, 0)));
    for (Index t = s.begin, i = 0; t < s.end; ++t, ++i)
      advance(a, s.batch, t, h, states.select(0, i), states.select(0, i + 1));

    const auto adjoint = frame.template tensor<double>(channels, size);  // exp(Δ·A)·λ of the next
    load(g.dfinal_state, s.row, h, adjoint);
    for (Index t = s.end - 1, i = s.end - s.begin - 1; t >= s.begin; --t, --i) {
      const double dt = step(a, s.batch, t, h);
      const double decay = std::exp(dt * a.A(h));
      double ddt = 0;
      double faded = 0;
      for (Index p = 0; p < channels; ++p) {
        const double x = a.x(s.batch, t, h, p), dy = g.dy(s.batch, t, h, p);
        double dinput = 0;  // of Δ·x
        for (Index n = 0; n < size; ++n) {
          const double lambda = adjoint(p, n) + a.C(s.batch, t, group, n) * dy;
          sums.C(t, n) += dy * states(i + 1, p, n);
          sums.B(t, n) += lambda * dt * x;
          dinput += lambda * a.B(s.batch, t, group, n);
          faded += lambda * decay * states(i, p, n);
          adjoint(p, n) = lambda * decay;
        }
        ddt += dinput * x;
        sums.skip(h) += dy * x;
        if (g.dx) g.dx(s.batch, t, h, p) = static_cast<T>(dinput * dt + skip * dy);
      }
      sums.A(h) += dt * faded;
      ddt = (ddt + a.A(h) * faded) * step_slope(a, s.batch, t, h);
      sums.dt_bias(h) += ddt;
      if (g.ddt) g.ddt(s.batch, t, h) = static_cast<T>(ddt);
    }
    save(adjoint, g.dinitial_state, s.row, h);
  }
};

}  // namespace ssm::reference
