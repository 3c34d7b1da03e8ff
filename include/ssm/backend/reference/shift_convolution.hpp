// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/shift_convolution.hpp"

namespace ssm::reference {

/// ShiftConvolution as the recurrence it is, one channel after the other, in double precision.
struct ShiftConvolution {
  template <class Ctx, Real T>
  static void shift_convolution(Ctx& ctx, const ssm::ShiftConvolution<T, typename Ctx::Space>& a) {
    const Index taps = a.B.extent(1);
    auto frame = ctx.workspace().frame();
    const auto state = frame.template tensor<double>(taps);
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index d = 0; d < a.x.extent(2); ++d) {
        load_state(a.initial_state, s.row, d, state);
        for (Index t = s.begin; t < s.end; ++t) {
          const double x = a.x(s.batch, t, d);
          double sum = a.skip ? a.skip(d) * x : 0.0;
          advance(a, d, x, state, state);
          for (Index n = 0; n < taps; ++n) sum += a.C(d, n) * state(n);
          a.y(s.batch, t, d) = static_cast<T>(sum);
        }
        if (a.final_state)
          for (Index n = 0; n < taps; ++n) a.final_state(s.row, d, n) = static_cast<T>(state(n));
      }
    });
  }

  template <class Ctx, Real T>
  static void shift_convolution_backward(
      Ctx& ctx, const ssm::ShiftConvolutionBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index taps = a.B.extent(1);
    auto frame = ctx.workspace().frame();
    Gradient sum{.B = frame.template tensor<double>(taps),
                 .C = frame.template tensor<double>(taps)};
    for (Index d = 0; d < a.x.extent(2); ++d) {
      for (Index n = 0; n < taps; ++n) sum.B(n) = sum.C(n) = 0;
      sum.skip = 0;
      for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments,
                        [&](Sequence s) { channel_backward(ctx, g, s, d, sum); });
      for (Index n = 0; n < taps; ++n) {
        if (g.dB) g.dB(d, n) += static_cast<T>(sum.B(n));
        if (g.dC) g.dC(d, n) += static_cast<T>(sum.C(n));
      }
      if (g.dskip) g.dskip(d) += static_cast<T>(sum.skip);
    }
  }

 private:
  /// What one channel gathers from all sequences.
  struct Gradient {
    View<double, 1> B;
    View<double, 1> C;
    double skip = 0;
  };

  template <class V>
  static void load_state(const V& states, Index row, Index d, const View<double, 1>& state) {
    for (Index n = 0; n < state.extent(0); ++n) state(n) = states ? double{states(row, d, n)} : 0.0;
  }

  /// after[n] = before[n−1] + B[n]·x; from the last tap on, so that `after` may be `before`.
  template <class T, class Space>
  static void advance(const ssm::ShiftConvolution<T, Space>& a, Index d, double x,
                      const View<double, 1>& before, const View<double, 1>& after) {
    for (Index n = a.B.extent(1) - 1; n >= 0; --n)
      after(n) = (n > 0 ? before(n - 1) : 0.0) + a.B(d, n) * x;
  }

  /// One channel of one sequence. The states are computed again and kept; then, with
  /// λ_t = ∂loss/∂state_t,
  ///   λ_t[n] = C[n]·dy_t + λ_{t+1}[n+1]     dx_t = Σ B[n]·λ_t[n] + skip·dy_t
  ///   dB[n] += λ_t[n]·x_t                   dC[n] += dy_t·state_t[n]
  template <class Ctx, Real T>
  static void channel_backward(Ctx& ctx,
                               const ssm::ShiftConvolutionBackward<T, typename Ctx::Space>& g,
                               Sequence s, Index d, Gradient& sum) {
    const auto& a = g.forward;
    const Index taps = a.B.extent(1);
    auto frame = ctx.workspace().frame();
    const auto states = frame.template tensor<double>(s.end - s.begin + 1, taps);  // before t
    load_state(a.initial_state, s.row, d, View<double, 1>(states.select(0, 0)));
    for (Index t = s.begin, i = 0; t < s.end; ++t, ++i)
      advance(a, d, a.x(s.batch, t, d), states.select(0, i), states.select(0, i + 1));

    const auto adjoint = frame.template tensor<double>(taps);  // λ of the next position, shifted
    load_state(g.dfinal_state, s.row, d, adjoint);
    for (Index t = s.end - 1, i = s.end - s.begin; t >= s.begin; --t, --i) {
      const double dy = g.dy(s.batch, t, d);
      const double x = a.x(s.batch, t, d);
      double dx = a.skip ? a.skip(d) * dy : 0.0;
      for (Index n = 0; n < taps; ++n) {
        const double lambda = adjoint(n) + a.C(d, n) * dy;
        sum.B(n) += lambda * x;
        sum.C(n) += dy * states(i, n);
        dx += a.B(d, n) * lambda;
        if (n > 0) adjoint(n - 1) = lambda;
      }
      if (taps > 0) adjoint(taps - 1) = 0;
      sum.skip += dy * x;
      if (g.dx) g.dx(s.batch, t, d) = static_cast<T>(dx);
    }
    if (g.dinitial_state)
      for (Index n = 0; n < taps; ++n) g.dinitial_state(s.row, d, n) = static_cast<T>(adjoint(n));
  }
};

}  // namespace ssm::reference
