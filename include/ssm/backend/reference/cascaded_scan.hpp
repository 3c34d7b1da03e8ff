// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/op/cascaded_scan.hpp"

namespace ssm::reference {

/// CascadedScan as the recurrences it is, one channel after the other, in double precision.
struct CascadedScan {
  template <class Ctx, Real T>
  static void cascaded_scan(Ctx& ctx, const ssm::CascadedScan<T, typename Ctx::Space>& a) {
    const Index size = a.A.extent(1);
    const Index scans = static_cast<Index>(a.sources.size()) + 1;
    auto frame = ctx.workspace().frame();
    const auto states =
        frame.template tensor<double>(scans, size);  // those of the sources, then its own
    for_each_sequence(a.dt.extent(0), a.dt.extent(1), a.segments, [&](Sequence s) {
      for (Index d = 0; d < a.dt.extent(2); ++d) {
        load_states(a, s.row, d, states);
        for (Index t = s.begin; t < s.end; ++t) {
          advance(a, s.batch, t, d, states, states);
          double sum = 0;
          for (Index n = 0; n < size; ++n) sum += a.C(s.batch, t, n) * states(scans - 1, n);
          a.y(s.batch, t, d) = static_cast<T>(sum);
        }
        if (a.final_state)
          for (Index n = 0; n < size; ++n)
            a.final_state(s.row, d, n) = static_cast<T>(states(scans - 1, n));
      }
    });
  }

  template <class Ctx, Real T>
  static void cascaded_scan_backward(Ctx& ctx,
                                     const ssm::CascadedScanBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index channels = a.A.extent(0), size = a.A.extent(1);
    const Index count = static_cast<Index>(a.sources.size());
    auto frame = ctx.workspace().frame();
    const Sums sums{.A = frame.template tensor<double>(count + 1, channels, size),
                    .B = frame.template tensor<double>(count, a.dt.extent(1), size),
                    .C = frame.template tensor<double>(a.dt.extent(1), size)};
    set_zero(sums.A);
    for_each_sequence(a.dt.extent(0), a.dt.extent(1), a.segments, [&](Sequence s) {
      set_zero(sums.B);
      set_zero(sums.C);
      for (Index d = 0; d < channels; ++d) channel_backward(ctx, g, s, d, sums);
      for (Index t = s.begin; t < s.end; ++t)
        for (Index n = 0; n < size; ++n) {
          put(g.dC, sums.C(t, n), s.batch, t, n);
          for (Index i = 0; i < count; ++i)
            add_to(gradient_of(g, i).B, sums.B(i, t, n), s.batch, t, n);
        }
    });
    for (Index d = 0; d < channels; ++d)
      for (Index n = 0; n < size; ++n) {
        for (Index i = 0; i < count; ++i) add_to(gradient_of(g, i).A, sums.A(i, d, n), d, n);
        add_to(g.dA, sums.A(count, d, n), d, n);
      }
  }

 private:
  /// What is gathered from several channels or sequences.
  struct Sums {
    View<double, 3> A;  // of the sources, then of the cascaded scan
    View<double, 3> B;  // of the sources, in the sequence at hand, by position
    View<double, 2> C;
  };

  template <class V>
  static void set_zero(const V& sums) {
    std::fill_n(sums.data(), sums.size(), 0.0);
  }
  template <class V, class... I>
  static void put(const V& to, double value, I... i) {
    if (to) to(i...) = static_cast<typename V::Value>(value);
  }
  template <class V, class... I>
  static void add_to(const V& to, double value, I... i) {
    if (to) to(i...) = static_cast<typename V::Value>(to(i...) + value);
  }

  template <class T, class Space>
  static const ScanInputs<T, Space>& source_of(const ssm::CascadedScan<T, Space>& a, Index i) {
    return a.sources[static_cast<std::size_t>(i)];
  }
  /// Null views where none is wanted.
  template <class T, class Space>
  static ScanInputs<T, Space> gradient_of(const ssm::CascadedScanBackward<T, Space>& g, Index i) {
    if (g.dsources.empty()) return {};
    return g.dsources[static_cast<std::size_t>(i)];
  }

  template <class T, class Space>
  static void load_states(const ssm::CascadedScan<T, Space>& a, Index row, Index d,
                          const View<double, 2>& to) {
    for (Index i = 0; i < to.extent(0); ++i) {
      View<const T, 3, Space> from = a.initial_state;
      if (i + 1 < to.extent(0)) from = source_of(a, i).initial_state;
      for (Index n = 0; n < to.extent(1); ++n) to(i, n) = from ? double{from(row, d, n)} : 0.0;
    }
  }

  /// All scans by one position.
  template <class T, class Space>
  static void advance(const ssm::CascadedScan<T, Space>& a, Index b, Index t, Index d,
                      const View<double, 2>& before, const View<double, 2>& after) {
    const Index count = static_cast<Index>(a.sources.size());
    for (Index n = 0; n < a.A.extent(1); ++n) {
      double sum = 0;
      for (Index i = 0; i < count; ++i) {
        const auto& s = source_of(a, i);
        const double dt = s.dt(b, t, d);
        after(i, n) =
            std::exp(dt * s.A(d, n)) * before(i, n) + dt * s.B(b, t, n) * double{s.u(b, t, d)};
        sum += after(i, n);
      }
      after(count, n) = std::exp(double{a.dt(b, t, d)} * a.A(d, n)) * before(count, n);
      if (count > 0) after(count, n) += a.gate(b, t, d) * sum;
    }
  }

  /// One channel of one sequence. All states are computed again and kept; then, with λ and μ^i the
  /// gradients of the cascaded state and of the sources' ones,
  ///   λ_t = C_t·dy_t + exp(Δ_{t+1}·A)·λ_{t+1}        dgate_t = Σ_n λ_t·Σ_i source^i_t
  ///   μ^i_t = gate_t·λ_t + exp(Δ^i_{t+1}·A^i)·μ^i_{t+1}
  /// and the sums of a selective scan for each.
  template <class Ctx, Real T>
  static void channel_backward(Ctx& ctx, const ssm::CascadedScanBackward<T, typename Ctx::Space>& g,
                               Sequence s, Index d, const Sums& sums) {
    const auto& a = g.forward;
    const Index size = a.A.extent(1);
    const Index count = static_cast<Index>(a.sources.size());
    auto frame = ctx.workspace().frame();
    const auto states = frame.template tensor<double>(s.end - s.begin + 1, count + 1, size);
    load_states(a, s.row, d, View<double, 2>(states.select(0, 0)));
    for (Index t = s.begin, i = 0; t < s.end; ++t, ++i)
      advance(a, s.batch, t, d, View<double, 2>(states.select(0, i)),
              View<double, 2>(states.select(0, i + 1)));
    const auto adjoint = frame.template tensor<double>(count + 1, size);  // decayed, of the next
    set_zero(adjoint);
    if (g.dfinal_state)
      for (Index n = 0; n < size; ++n) adjoint(count, n) = double{g.dfinal_state(s.row, d, n)};
    for (Index t = s.end - 1, i = s.end - s.begin - 1; t >= s.begin; --t, --i)
      position_backward(g, s.batch, t, d, View<double, 2>(states.select(0, i)),
                        View<double, 2>(states.select(0, i + 1)), adjoint, sums);
    for (Index n = 0; n < size; ++n) {
      put(g.dinitial_state, adjoint(count, n), s.row, d, n);
      for (Index i = 0; i < count; ++i)
        add_to(gradient_of(g, i).initial_state, adjoint(i, n), s.row, d, n);
    }
  }

  template <class T, class Space>
  static void position_backward(const ssm::CascadedScanBackward<T, Space>& g, Index b, Index t,
                                Index d, const View<double, 2>& before,
                                const View<double, 2>& after, const View<double, 2>& adjoint,
                                const Sums& sums) {
    const auto& a = g.forward;
    const Index count = static_cast<Index>(a.sources.size());
    const double gate = count > 0 ? double{a.gate(b, t, d)} : 0.0;
    const double dy = g.dy(b, t, d);
    double dgate = 0, ddt = 0;
    for (Index n = 0; n < a.A.extent(1); ++n) {
      const double lambda = adjoint(count, n) + a.C(b, t, n) * dy;
      sums.C(t, n) += dy * after(count, n);
      for (Index i = 0; i < count; ++i) {
        dgate += lambda * after(i, n);
        adjoint(i, n) += gate * lambda;
      }
      adjoint(count, n) = lambda * std::exp(double{a.dt(b, t, d)} * a.A(d, n));
      const double decayed = adjoint(count, n) * before(count, n);
      sums.A(count, d, n) += a.dt(b, t, d) * decayed;
      ddt += a.A(d, n) * decayed;
    }
    put(g.dgate, dgate, b, t, d);
    put(g.ddt, ddt, b, t, d);
    for (Index i = 0; i < count; ++i) source_backward(g, i, b, t, d, before, adjoint, sums);
  }

  /// `adjoint` is the gradient of the source's state, and then what of it reaches the position
  /// before.
  template <class T, class Space>
  static void source_backward(const ssm::CascadedScanBackward<T, Space>& g, Index i, Index b,
                              Index t, Index d, const View<double, 2>& before,
                              const View<double, 2>& adjoint, const Sums& sums) {
    const auto& source = source_of(g.forward, i);
    const ScanInputs<T, Space> gradient = gradient_of(g, i);
    const double dt = source.dt(b, t, d), u = source.u(b, t, d);
    double dinput = 0, ddt = 0;
    for (Index n = 0; n < source.A.extent(1); ++n) {
      sums.B(i, t, n) += adjoint(i, n) * dt * u;
      dinput += adjoint(i, n) * source.B(b, t, n);
      adjoint(i, n) *= std::exp(dt * source.A(d, n));
      const double decayed = adjoint(i, n) * before(i, n);
      sums.A(i, d, n) += dt * decayed;
      ddt += source.A(d, n) * decayed;
    }
    add_to(gradient.u, dinput * dt, b, t, d);
    add_to(gradient.dt, ddt + dinput * u, b, t, d);
  }
};

}  // namespace ssm::reference
