// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/op/causal_convolution.hpp"

namespace ssm::reference {

/// CausalConvolution as the sum it is, in double precision: O(B·D·L·K).
struct CausalConvolution {
  template <class Ctx, Real T>
  static void causal_convolution(Ctx&, const ssm::CausalConvolution<T, typename Ctx::Space>& a) {
    for_each_position(a, [&](Sequence s, Index t, Index d) {
      const double gate = a.gate_out ? a.gate_out(s.batch, t, d) : T{1};
      a.y(s.batch, t, d) = static_cast<T>(gate * filtered(a, s, t, d));
    });
  }

  /// With g = gate_out·dy:
  ///   du_t        = Σ_{s ≥ t} kernel[s−t]·g_s + skip·g_t
  ///   dkernel[s] += Σ_t g_t·u_{t−s}
  ///   dskip      += Σ g_t·u_t
  template <class Ctx, Real T>
  static void causal_convolution_backward(
      Ctx&, const ssm::CausalConvolutionBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    for_each_position(a, [&](Sequence s, Index t, Index d) {
      const double gate = a.gate_in ? a.gate_in(s.batch, t, d) : T{1};
      const double du = filtered_backward(g, s, t, d);
      if (g.dx) g.dx(s.batch, t, d) = static_cast<T>(gate * du);
      if (g.dgate_in) g.dgate_in(s.batch, t, d) = static_cast<T>(a.x(s.batch, t, d) * du);
      if (g.dgate_out)
        g.dgate_out(s.batch, t, d) = static_cast<T>(g.dy(s.batch, t, d) * filtered(a, s, t, d));
    });
    for (Index d = 0; d < a.x.extent(2); ++d) {
      if (g.dkernel)
        for (Index lag = 0; lag < a.kernel.extent(1); ++lag)
          g.dkernel(d, lag) += static_cast<T>(correlation(g, lag, d));
      if (g.dskip) g.dskip(d) += static_cast<T>(correlation(g, 0, d));
    }
  }

 private:
  template <class T, class Space, class F>
  static void for_each_position(const ssm::CausalConvolution<T, Space>& a, F&& visit) {
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index t = s.begin; t < s.end; ++t)
        for (Index d = 0; d < a.x.extent(2); ++d) visit(s, t, d);
    });
  }

  template <class T, class Space>
  static double gated_input(const ssm::CausalConvolution<T, Space>& a, Index b, Index t, Index d) {
    const double gate = a.gate_in ? a.gate_in(b, t, d) : T{1};
    return gate * a.x(b, t, d);
  }

  template <class T, class Space>
  static double gated_gradient(const ssm::CausalConvolutionBackward<T, Space>& g, Index b, Index t,
                               Index d) {
    const double gate = g.forward.gate_out ? g.forward.gate_out(b, t, d) : T{1};
    return gate * g.dy(b, t, d);
  }

  /// The output before gate_out.
  template <class T, class Space>
  static double filtered(const ssm::CausalConvolution<T, Space>& a, Sequence s, Index t, Index d) {
    double sum = a.skip ? a.skip(d) * gated_input(a, s.batch, t, d) : 0.0;
    const Index lags = std::min(a.kernel.extent(1), t - s.begin + 1);
    for (Index lag = 0; lag < lags; ++lag)
      sum += a.kernel(d, lag) * gated_input(a, s.batch, t - lag, d);
    return sum;
  }

  template <class T, class Space>
  static double filtered_backward(const ssm::CausalConvolutionBackward<T, Space>& g, Sequence s,
                                  Index t, Index d) {
    const auto& a = g.forward;
    double sum = a.skip ? a.skip(d) * gated_gradient(g, s.batch, t, d) : 0.0;
    const Index lags = std::min(a.kernel.extent(1), s.end - t);
    for (Index lag = 0; lag < lags; ++lag)
      sum += a.kernel(d, lag) * gated_gradient(g, s.batch, t + lag, d);
    return sum;
  }

  /// Σ_t g_t·u_{t−lag} over all sequences.
  template <class T, class Space>
  static double correlation(const ssm::CausalConvolutionBackward<T, Space>& g, Index lag, Index d) {
    const auto& a = g.forward;
    double sum = 0;
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index t = s.begin + lag; t < s.end; ++t)
        sum += gated_gradient(g, s.batch, t, d) * gated_input(a, s.batch, t - lag, d);
    });
    return sum;
  }
};

}  // namespace ssm::reference
