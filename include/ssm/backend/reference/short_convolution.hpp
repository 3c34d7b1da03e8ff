// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/reference/activation.hpp"
#include "ssm/op/short_convolution.hpp"

namespace ssm::reference {

/// ShortConvolution over the initial state and the inputs in one row, one channel after the other,
/// in double precision.
struct ShortConvolution {
  template <class Ctx, Real T>
  static void short_convolution(Ctx& ctx, const ssm::ShortConvolution<T, typename Ctx::Space>& a) {
    const Index width = a.weight.extent(1);
    auto frame = ctx.workspace().frame();
    const auto row = frame.template tensor<double>(a.x.extent(1) + width);
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      for (Index d = 0; d < a.x.extent(2); ++d) {
        const Index length = load_row(a, s, d, row);
        for (Index t = 0; t < length; ++t)
          a.y(s.batch, s.begin + t, d) =
              static_cast<T>(activate(a.activation, filtered(a, d, row, t)));
        if (a.final_state)
          for (Index w = 0; w < width; ++w)
            a.final_state(s.row, d, w) = static_cast<T>(row(length + w));
      }
    });
  }

  /// drow[i] = ∂loss/∂row[i], where row is the initial state followed by the inputs.
  template <class Ctx, Real T>
  static void short_convolution_backward(
      Ctx& ctx, const ssm::ShortConvolutionBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    const Index width = a.weight.extent(1);
    auto frame = ctx.workspace().frame();
    const auto row = frame.template tensor<double>(a.x.extent(1) + width);
    const auto drow = frame.template tensor<double>(a.x.extent(1) + width);
    const auto dweight = frame.template tensor<double>(width);
    for (Index d = 0; d < a.x.extent(2); ++d) {
      double dbias = 0;
      for (Index w = 0; w < width; ++w) dweight(w) = 0;
      for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
        const Index length = load_row(a, s, d, row);
        for (Index i = 0; i < length; ++i) drow(i) = 0;
        for (Index w = 0; w < width; ++w)
          drow(length + w) = g.dfinal_state ? double{g.dfinal_state(s.row, d, w)} : 0.0;
        for (Index t = 0; t < length; ++t) {
          const double sum = g.dy(s.batch, s.begin + t, d) *
                             activation_slope(a.activation, filtered(a, d, row, t));
          dbias += sum;
          for (Index w = 0; w < width; ++w) {
            dweight(w) += sum * row(t + 1 + w);
            drow(t + 1 + w) += sum * a.weight(d, w);
          }
        }
        if (g.dinitial_state)
          for (Index w = 0; w < width; ++w) g.dinitial_state(s.row, d, w) = static_cast<T>(drow(w));
        if (g.dx)
          for (Index t = 0; t < length; ++t)
            g.dx(s.batch, s.begin + t, d) = static_cast<T>(drow(width + t));
      });
      if (g.dbias) g.dbias(d) += static_cast<T>(dbias);
      if (g.dweight)
        for (Index w = 0; w < width; ++w) g.dweight(d, w) += static_cast<T>(dweight(w));
    }
  }

 private:
  /// The initial state, then the inputs; returns how many inputs.
  template <class T, class Space>
  static Index load_row(const ssm::ShortConvolution<T, Space>& a, Sequence s, Index d,
                        const View<double, 1>& row) {
    const Index width = a.weight.extent(1);
    for (Index w = 0; w < width; ++w)
      row(w) = a.initial_state ? double{a.initial_state(s.row, d, w)} : 0.0;
    for (Index t = s.begin; t < s.end; ++t) row(width + t - s.begin) = a.x(s.batch, t, d);
    return s.end - s.begin;
  }

  template <class T, class Space>
  static double filtered(const ssm::ShortConvolution<T, Space>& a, Index d,
                         const View<double, 1>& row, Index t) {
    double sum = a.bias ? double{a.bias(d)} : 0.0;
    for (Index w = 0; w < a.weight.extent(1); ++w) sum += a.weight(d, w) * row(t + 1 + w);
    return sum;
  }
};

}  // namespace ssm::reference
