// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/reference/number.hpp"
#include "ssm/op/diagonal_scan.hpp"

namespace ssm::reference {

/// DiagonalScan as the recurrence it is, one channel after the other, in double precision.
struct DiagonalScan {
  template <class Ctx, Real T>
  static void diagonal_scan(Ctx& ctx, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    with_number(a.A.extent(2), [&](auto zero) { run<decltype(zero)>(ctx, a); });
  }

  template <class Ctx, Real T>
  static void diagonal_scan_backward(Ctx& ctx,
                                     const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g) {
    with_number(g.forward.A.extent(2), [&](auto zero) { run_backward<decltype(zero)>(ctx, g); });
  }

 private:
  /// A mode ready to run.
  template <class Z>
  struct Mode {
    DiscreteMode<Z> step;
    Z C;
  };

  template <class Z, class T, class Space>
  static Mode<Z> mode_at(const ssm::DiagonalScan<T, Space>& a, Index r, Index p) {
    return {.step = discretize(a.discretization, double{a.dt(r)}, number_at<Z>(a.A, r, p),
                               number_at<Z>(a.B, r, p)),
            .C = number_at<Z>(a.C, r, p)};
  }

  template <class Z, class Ctx, class T>
  static void run(Ctx& ctx, const ssm::DiagonalScan<T, typename Ctx::Space>& a) {
    const Index rows = a.A.extent(0);
    const Index modes = a.A.extent(1);
    auto frame = ctx.workspace().frame();
    const auto mode = frame.template tensor<Mode<Z>>(modes);
    const auto state = frame.template tensor<Z>(modes);
    for (Index d = 0; d < a.x.extent(2); ++d) {
      const Index r = d % rows;
      for (Index p = 0; p < modes; ++p) mode(p) = mode_at<Z>(a, r, p);
      const double skip = a.skip ? a.skip(r) : T{0};
      for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
        load_state(a.initial_state, s.row, d, state);
        for (Index t = s.begin; t < s.end; ++t) {
          const double u = gated_input(a, s.batch, t, d);
          const double sum = advance(mode, state, state, u);
          const double gate = a.gate_out ? a.gate_out(s.batch, t, d) : T{1};
          a.y(s.batch, t, d) = static_cast<T>(gate * (sum + skip * u));
        }
        if (a.final_state)
          for (Index p = 0; p < modes; ++p) set_number(a.final_state, state(p), s.row, d, p);
      });
    }
  }

  template <class T, class Space>
  static double gated_input(const ssm::DiagonalScan<T, Space>& a, Index b, Index t, Index d) {
    const double gate = a.gate_in ? a.gate_in(b, t, d) : T{1};
    return gate * a.x(b, t, d);
  }

  template <class V, class Z>
  static void load_state(const V& states, Index row, Index d, const View<Z, 1>& state) {
    for (Index p = 0; p < state.extent(0); ++p)
      state(p) = states ? number_at<Z>(states, row, d, p) : Z{};
  }

  /// after = Ā·before + B̄·u, and what the state says: w·Re Σ C·after.
  template <class Z>
  static double advance(const View<Mode<Z>, 1>& mode, const View<Z, 1>& before,
                        const View<Z, 1>& after, double u) {
    double sum = 0;
    for (Index p = 0; p < mode.extent(0); ++p) {
      after(p) = mode(p).step.A * before(p) + mode(p).step.B * u;
      sum += real_part(mode(p).C * after(p));
    }
    return mode_weight<Z> * sum;
  }

  /// What one coefficient row gathers from all its channels and sequences.
  template <class Z>
  struct RowGradient {
    View<DiscreteMode<Z>, 1> step;
    View<Z, 1> C;
    double skip = 0;
  };

  template <class Z, class Ctx, class T>
  static void run_backward(Ctx& ctx, const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index rows = a.A.extent(0);
    const Index modes = a.A.extent(1);
    auto frame = ctx.workspace().frame();
    const auto mode = frame.template tensor<Mode<Z>>(modes);
    RowGradient<Z> row{.step = frame.template tensor<DiscreteMode<Z>>(modes),
                       .C = frame.template tensor<Z>(modes)};
    for (Index r = 0; r < rows; ++r) {
      for (Index p = 0; p < modes; ++p) {
        mode(p) = mode_at<Z>(a, r, p);
        row.step(p) = {};
        row.C(p) = {};
      }
      row.skip = 0;
      for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
        for (Index d = r; d < a.x.extent(2); d += rows) channel_backward(ctx, g, mode, s, d, row);
      });
      add_row(g, r, row);
    }
  }

  /// One channel of one sequence. The states are computed again and kept; then, with
  /// λ_t = ∂loss/∂state_t,
  ///   λ_t = w·conj(C)·g_t + conj(Ā)·λ_{t+1}     g = gate_out·dy
  ///   du_t = Re Σ conj(B̄)·λ_t + skip·g_t        dĀ += λ_t·conj(state_{t−1})     dB̄ += λ_t·u_t
  template <class Z, class Ctx, class T>
  static void channel_backward(Ctx& ctx, const ssm::DiagonalScanBackward<T, typename Ctx::Space>& g,
                               const View<Mode<Z>, 1>& mode, Sequence s, Index d,
                               RowGradient<Z>& row) {
    const auto& a = g.forward;
    const Index modes = mode.extent(0);
    const double skip = a.skip ? a.skip(d % a.A.extent(0)) : T{0};
    auto frame = ctx.workspace().frame();
    const auto states = frame.template tensor<Z>(s.end - s.begin + 1, modes);  // before position t
    const auto outputs = frame.template tensor<double>(s.end - s.begin);       // before gate_out
    load_state(a.initial_state, s.row, d, View<Z, 1>(states.select(0, 0)));
    for (Index t = s.begin, i = 0; t < s.end; ++t, ++i) {
      const double u = gated_input(a, s.batch, t, d);
      outputs(i) = skip * u + advance<Z>(mode, states.select(0, i), states.select(0, i + 1), u);
    }

    const auto adjoint = frame.template tensor<Z>(modes);  // conj(Ā)·λ of the next position
    load_state(g.dfinal_state, s.row, d, adjoint);
    for (Index t = s.end - 1, i = s.end - s.begin - 1; t >= s.begin; --t, --i) {
      const double gate_out = a.gate_out ? a.gate_out(s.batch, t, d) : T{1};
      const double dy = g.dy(s.batch, t, d);
      const double u = gated_input(a, s.batch, t, d);
      double du = skip * gate_out * dy;
      for (Index p = 0; p < modes; ++p) {
        const double output_gradient = mode_weight<Z> * gate_out * dy;
        row.C(p) += output_gradient * conjugate(states(i + 1, p));
        const Z lambda = adjoint(p) + output_gradient * conjugate(mode(p).C);
        row.step(p).A += lambda * conjugate(states(i, p));
        row.step(p).B += lambda * u;
        du += real_part(lambda * conjugate(mode(p).step.B));
        adjoint(p) = lambda * conjugate(mode(p).step.A);
      }
      row.skip += gate_out * dy * u;
      if (g.dgate_out) g.dgate_out(s.batch, t, d) = static_cast<T>(dy * outputs(i));
      write_input_gradients(g, s.batch, t, d, du);
    }
    if (g.dinitial_state)
      for (Index p = 0; p < modes; ++p) set_number(g.dinitial_state, adjoint(p), s.row, d, p);
  }

  template <class T, class Space>
  static void write_input_gradients(const ssm::DiagonalScanBackward<T, Space>& g, Index b, Index t,
                                    Index d, double du) {
    const auto& a = g.forward;
    const double x = a.x(b, t, d);
    const double gate = a.gate_in ? a.gate_in(b, t, d) : T{1};
    if (g.dx) g.dx(b, t, d) = static_cast<T>(du * gate);
    if (g.dgate_in) g.dgate_in(b, t, d) = static_cast<T>(du * x);
  }

  template <class Z, class T, class Space>
  static void add_row(const ssm::DiagonalScanBackward<T, Space>& g, Index r,
                      const RowGradient<Z>& row) {
    const auto& a = g.forward;
    double ddt = 0;
    for (Index p = 0; p < a.A.extent(1); ++p) {
      const auto mode =
          discretize_backward(a.discretization, double{a.dt(r)}, number_at<Z>(a.A, r, p),
                              number_at<Z>(a.B, r, p), row.step(p));
      ddt += mode.ddt;
      if (g.dA) add_number(g.dA, mode.dA, r, p);
      if (g.dB) add_number(g.dB, mode.dB, r, p);
      if (g.dC) add_number(g.dC, row.C(p), r, p);
    }
    if (g.ddt) g.ddt(r) += static_cast<T>(ddt);
    if (g.dskip) g.dskip(r) += static_cast<T>(row.skip);
  }
};

}  // namespace ssm::reference
