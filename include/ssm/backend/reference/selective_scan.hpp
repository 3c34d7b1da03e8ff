// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/backend/reference/activation.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm::reference {

/// SelectiveScan as the recurrence it is, one channel after the other, in double precision.
struct SelectiveScan {
  template <class Ctx, Real T>
  static void selective_scan(Ctx& ctx, const ssm::SelectiveScan<T, typename Ctx::Space>& a) {
    const Index size = a.A.extent(1);
    auto frame = ctx.workspace().frame();
    const auto state = frame.template tensor<double>(size);
    for_each_sequence(a.u.extent(0), a.u.extent(1), a.segments, [&](Sequence s) {
      for (Index d = 0; d < a.u.extent(2); ++d) {
        load_state(a.initial_state, s.row, d, state);
        for (Index t = s.begin; t < s.end; ++t) {
          const double dt = dt_at(a, s.batch, t, d);
          advance(a, s.batch, t, d, dt, state, state);
          if (a.dt_used) a.dt_used(s.batch, t, d) = static_cast<T>(dt);
          const double gate = a.gate ? activate(ActivationKind::silu, a.gate(s.batch, t, d)) : 1.0;
          a.y(s.batch, t, d) = static_cast<T>(gate * output(a, s.batch, t, d, state));
        }
        if (a.final_state)
          for (Index n = 0; n < size; ++n) a.final_state(s.row, d, n) = static_cast<T>(state(n));
      }
    });
  }

  template <class Ctx, Real T>
  static void selective_scan_backward(Ctx& ctx,
                                      const ssm::SelectiveScanBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index channels = a.u.extent(2);
    const Index size = a.A.extent(1);
    auto frame = ctx.workspace().frame();
    const Sums sums{.A = frame.template tensor<double>(channels, size),
                    .skip = frame.template tensor<double>(channels),
                    .dt_bias = frame.template tensor<double>(channels),
                    .B = frame.template tensor<double>(a.u.extent(1), size),
                    .C = frame.template tensor<double>(a.u.extent(1), size)};
    set_zero(sums.A);
    set_zero(sums.skip);
    set_zero(sums.dt_bias);
    for_each_sequence(a.u.extent(0), a.u.extent(1), a.segments, [&](Sequence s) {
      set_zero(sums.B);
      set_zero(sums.C);
      for (Index d = 0; d < channels; ++d) channel_backward(ctx, g, s, d, sums);
      for (Index t = s.begin; t < s.end; ++t)
        for (Index n = 0; n < size; ++n) {
          put(g, g.dB, sums.B(t, n), s.batch, t, n);
          put(g, g.dC, sums.C(t, n), s.batch, t, n);
        }
    });
    for (Index d = 0; d < channels; ++d) {
      if (g.dskip) g.dskip(d) += static_cast<T>(sums.skip(d));
      if (g.ddt_bias) g.ddt_bias(d) += static_cast<T>(sums.dt_bias(d));
      if (g.dA)
        for (Index n = 0; n < size; ++n) g.dA(d, n) += static_cast<T>(sums.A(d, n));
    }
  }

 private:
  /// What is gathered from several channels or sequences.
  struct Sums {
    View<double, 2> A;
    View<double, 1> skip;
    View<double, 1> dt_bias;
    View<double, 2> B;  // of the sequence at hand, by position
    View<double, 2> C;
  };

  template <class V>
  static void set_zero(const V& sums) {
    std::fill_n(sums.data(), sums.size(), 0.0);
  }

  /// Writes a gradient, or adds it, where it is wanted.
  template <class G, class V>
  static void put(const G& g, const V& to, double value, Index i, Index j, Index k) {
    if (!to) return;
    const auto number = static_cast<typename V::Value>(value);
    to(i, j, k) = g.accumulate ? to(i, j, k) + number : number;
  }

  template <class V>
  static void load_state(const V& states, Index row, Index d, const View<double, 1>& state) {
    for (Index n = 0; n < state.extent(0); ++n) state(n) = states ? double{states(row, d, n)} : 0.0;
  }

  template <class T, class Space>
  static double raw_dt(const ssm::SelectiveScan<T, Space>& a, Index b, Index t, Index d) {
    return double{a.dt(b, t, d)} + (a.dt_bias ? double{a.dt_bias(d)} : 0.0);
  }
  template <class T, class Space>
  static double dt_at(const ssm::SelectiveScan<T, Space>& a, Index b, Index t, Index d) {
    const double raw = raw_dt(a, b, t, d);
    return a.dt_softplus ? std::max(raw, 0.0) + std::log1p(std::exp(-std::abs(raw))) : raw;
  }

  template <class T, class Space>
  static void advance(const ssm::SelectiveScan<T, Space>& a, Index b, Index t, Index d, double dt,
                      const View<double, 1>& before, const View<double, 1>& after) {
    const double input = dt * a.u(b, t, d);
    for (Index n = 0; n < after.extent(0); ++n)
      after(n) = std::exp(dt * a.A(d, n)) * before(n) + input * a.B(b, t, n);
  }

  template <class T, class Space>
  static double output(const ssm::SelectiveScan<T, Space>& a, Index b, Index t, Index d,
                       const View<double, 1>& state) {
    double sum = a.skip ? double{a.skip(d)} * a.u(b, t, d) : 0.0;
    for (Index n = 0; n < state.extent(0); ++n) sum += a.C(b, t, n) * state(n);
    return sum;
  }

  /// One channel of one sequence. The states are computed again and kept; then, with
  /// λ_t = ∂loss/∂state_t,
  ///   λ_t = C_t·g_t + exp(Δ_{t+1}·A)·λ_{t+1}        g = silu(gate)·dy
  ///   du_t = Δ_t·Σ B_t·λ_t + skip·g_t               dB_t += λ_t·Δ_t·u_t        dC_t += g_t·state_t
  ///   dΔ_t = Σ λ_t·(A·exp(Δ_t·A)·state_{t−1} + B_t·u_t)       dA += λ_t·Δ_t·exp(Δ_t·A)·state_{t−1}
  template <class Ctx, Real T>
  static void channel_backward(Ctx& ctx,
                               const ssm::SelectiveScanBackward<T, typename Ctx::Space>& g,
                               Sequence s, Index d, const Sums& sums) {
    const auto& a = g.forward;
    const Index size = a.A.extent(1);
    const double skip = a.skip ? double{a.skip(d)} : 0.0;
    auto frame = ctx.workspace().frame();
    const auto states = frame.template tensor<double>(s.end - s.begin + 1, size);  // before t
    load_state(a.initial_state, s.row, d, View<double, 1>(states.select(0, 0)));
    for (Index t = s.begin, i = 0; t < s.end; ++t, ++i)
      advance(a, s.batch, t, d, dt_at(a, s.batch, t, d), states.select(0, i),
              states.select(0, i + 1));

    const auto adjoint = frame.template tensor<double>(size);  // exp(Δ·A)·λ of the next position
    load_state(g.dfinal_state, s.row, d, adjoint);
    for (Index t = s.end - 1, i = s.end - s.begin - 1; t >= s.begin; --t, --i) {
      const double dt = dt_at(a, s.batch, t, d);
      const double u = a.u(s.batch, t, d);
      const double dy = g.dy(s.batch, t, d);
      const double gate = a.gate ? activate(ActivationKind::silu, a.gate(s.batch, t, d)) : 1.0;
      double dinput = 0;  // of Δ·u
      double ddt = g.ddt_used ? double{g.ddt_used(s.batch, t, d)} : 0.0;
      for (Index n = 0; n < size; ++n) {
        const double lambda = adjoint(n) + a.C(s.batch, t, n) * gate * dy;
        const double decay = std::exp(dt * a.A(d, n));
        const double decayed = decay * states(i, n);
        sums.C(t, n) += gate * dy * states(i + 1, n);
        sums.B(t, n) += lambda * dt * u;
        sums.A(d, n) += lambda * dt * decayed;
        dinput += lambda * a.B(s.batch, t, n);
        ddt += lambda * a.A(d, n) * decayed;
        adjoint(n) = lambda * decay;
      }
      ddt += dinput * u;
      if (a.dt_softplus) ddt /= 1 + std::exp(-raw_dt(a, s.batch, t, d));
      sums.skip(d) += gate * dy * u;
      sums.dt_bias(d) += ddt;
      put(g, g.du, dinput * dt + skip * gate * dy, s.batch, t, d);
      put(g, g.ddt, ddt, s.batch, t, d);
      if (g.dgate)
        put(g, g.dgate,
            dy * output(a, s.batch, t, d, states.select(0, i + 1)) *
                activation_slope(ActivationKind::silu, a.gate(s.batch, t, d)),
            s.batch, t, d);
    }
    for (Index n = 0; n < size; ++n) put(g, g.dinitial_state, adjoint(n), s.row, d, n);
  }
};

}  // namespace ssm::reference
