// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/op/normalization.hpp"

namespace ssm::reference {

/// Normalization, one row at a time, summed in double precision.
struct Normalization {
  template <class Ctx, Real T>
  static void normalization(Ctx&, const ssm::Normalization<T, typename Ctx::Space>& a) {
    const Index width = a.x.extent(1);
    for (Index m = 0; m < a.x.extent(0); ++m) {
      double mean = 0;
      if (a.kind == NormalizationKind::layer)
        for (Index d = 0; d < width; ++d) mean += a.x(m, d) / static_cast<double>(width);
      double variance = 0;
      for (Index d = 0; d < width; ++d)
        variance += (a.x(m, d) - mean) * (a.x(m, d) - mean) / static_cast<double>(width);
      const double eps = a.eps_scale ? a.eps * a.eps_scale(m) : a.eps;
      const double scale = 1 / std::sqrt(variance + eps);
      for (Index d = 0; d < width; ++d) {
        const double weight = a.weight ? a.weight(d) : T{1};
        const double bias = a.bias ? a.bias(d) : T{0};
        a.y(m, d) = static_cast<T>((a.x(m, d) - mean) * scale * weight + bias);
      }
      if (a.mean) a.mean(m) = static_cast<T>(mean);
      if (a.scale) a.scale(m) = static_cast<T>(scale);
    }
  }

  /// With n = (x − mean)·scale and g = weight·dy:
  ///   dx = scale·(g − mean(g) − n·mean(g·n))      without mean(g) for rms
  template <class Ctx, Real T>
  static void normalization_backward(Ctx&,
                                     const ssm::NormalizationBackward<T, typename Ctx::Space>& g) {
    const auto& a = g.forward;
    add_parameter_gradients(g);
    const Index width = a.x.extent(1);
    for (Index m = 0; m < a.x.extent(0); ++m) {
      double mean_g = 0;
      double mean_gn = 0;
      for (Index d = 0; d < width; ++d) {
        mean_g += weighted(g, m, d) / static_cast<double>(width);
        mean_gn += weighted(g, m, d) * normalized(g, m, d) / static_cast<double>(width);
      }
      if (a.kind == NormalizationKind::rms) mean_g = 0;
      for (Index d = 0; d < width; ++d) {
        const double dx = g.scale(m) * (weighted(g, m, d) - mean_g - normalized(g, m, d) * mean_gn);
        const double residual = g.residual ? double{g.residual(m, d)} : 0.0;
        g.dx(m, d) = static_cast<T>((g.accumulate ? g.dx(m, d) : 0.0) + residual + dx);
      }
    }
  }

 private:
  template <class T, class Space>
  static double normalized(const ssm::NormalizationBackward<T, Space>& g, Index m, Index d) {
    const double mean = g.forward.kind == NormalizationKind::layer ? g.mean(m) : T{0};
    return (g.forward.x(m, d) - mean) * g.scale(m);
  }

  template <class T, class Space>
  static double weighted(const ssm::NormalizationBackward<T, Space>& g, Index m, Index d) {
    const double weight = g.forward.weight ? g.forward.weight(d) : T{1};
    return weight * g.dy(m, d);
  }

  template <class T, class Space>
  static void add_parameter_gradients(const ssm::NormalizationBackward<T, Space>& g) {
    for (Index d = 0; d < g.dy.extent(1); ++d) {
      double dweight = 0;
      double dbias = 0;
      double residual = 0;
      for (Index m = 0; m < g.dy.extent(0); ++m) {
        dweight += g.dy(m, d) * normalized(g, m, d);
        dbias += g.dy(m, d);
        if (g.residual_sum) residual += g.residual(m, d);
      }
      if (g.dweight) g.dweight(d) += static_cast<T>(dweight);
      if (g.dbias) g.dbias(d) += static_cast<T>(dbias);
      if (g.residual_sum) g.residual_sum(d) += static_cast<T>(residual);
    }
  }
};

}  // namespace ssm::reference
