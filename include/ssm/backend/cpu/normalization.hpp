// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm::cpu {

namespace detail {

constexpr Index rows_a_thread = 8;  // below this a thread is not worth waking

/// Calls body(column, count) for each register of a row.
template <class T, class Arch, class F>
void for_each_register(Index columns, F&& body) {
  constexpr Index lanes = lane_count<T, Arch>;
  for (Index d = 0; d < columns; d += lanes) body(d, std::min(lanes, columns - d));
}

}  // namespace detail

/// ssm::normalization, one row at a time; parameter gradients are summed part by part, then in the
/// order of the parts.
template <class Arch>
struct Normalization {
  template <class Ctx, Real T>
  static void normalization(Ctx& ctx, const ssm::Normalization<T, typename Ctx::Space>& a) {
    const Rows<const T, Arch> x(a.x), weight(a.weight), bias(a.bias);
    const Rows<T, Arch> y(a.y);
    const Index width = a.x.extent(1);
    parallel(ctx.resources().threads(), a.x.extent(0), detail::rows_a_thread, [&](Range rows, int) {
      for (Index m = rows.begin; m < rows.end; ++m) {
        const T mean = a.kind == NormalizationKind::layer ? mean_of(x, m, width) : T{0};
        const double eps = a.eps_scale ? a.eps * a.eps_scale(m) : a.eps;
        const T scale = T{1} / std::sqrt(square_mean_of(x, m, width, mean) + static_cast<T>(eps));
        detail::for_each_register<T, Arch>(width, [&](Index d, Index count) {
          auto value = (x.load(m, d, count) - Batch<T, Arch>(mean)) * Batch<T, Arch>(scale);
          if (weight) value *= weight.load(0, d, count);
          if (bias) value += bias.load(0, d, count);
          y.store(m, d, count, value);
        });
        if (a.mean && a.kind == NormalizationKind::layer) a.mean(m) = mean;
        if (a.scale) a.scale(m) = scale;
      }
    });
  }

  template <class Ctx, Real T>
  static void normalization_backward(Ctx& ctx,
                                     const ssm::NormalizationBackward<T, typename Ctx::Space>& g) {
    const Threads threads = ctx.resources().threads();
    const Index width = g.dy.extent(1);
    auto frame = ctx.workspace().frame();
    const Index parts = part_count(threads, g.dy.extent(0), detail::rows_a_thread);
    const auto sums = frame.template tensor<T>(parts, 3, width);  // dweight, dbias, residual_sum
    std::fill_n(sums.data(), sums.size(), T{0});
    const Index rows = g.dy.extent(0);
    parallel(threads, parts, 1, [&](Range range, int) {
      for (Index part = range.begin; part < range.end; ++part)
        for (Index m = rows * part / parts; m < rows * (part + 1) / parts; ++m)
          backward_row(g, m, &sums(part, 0, 0));
    });
    for (Index part = 0; part < parts; ++part)
      for (Index d = 0; d < width; ++d) {
        if (g.dweight) g.dweight(d) += sums(part, 0, d);
        if (g.dbias) g.dbias(d) += sums(part, 1, d);
        if (g.residual_sum) g.residual_sum(d) += sums(part, 2, d);
      }
  }

 private:
  template <class T>
  static T mean_of(const Rows<const T, Arch>& x, Index m, Index width) {
    Batch<T, Arch> sum(T{0});
    detail::for_each_register<T, Arch>(width,
                                       [&](Index d, Index count) { sum += x.load(m, d, count); });
    return sum_of_lanes(sum) / static_cast<T>(width);
  }
  template <class T>
  static T square_mean_of(const Rows<const T, Arch>& x, Index m, Index width, T center) {
    Batch<T, Arch> sum(T{0});
    detail::for_each_register<T, Arch>(width, [&](Index d, Index count) {
      const auto distance = x.load(m, d, count, center) - Batch<T, Arch>(center);
      sum = xsimd::fma(distance, distance, sum);
    });
    return sum_of_lanes(sum) / static_cast<T>(width);
  }

  /// With x̂ = (x − mean)·scale and h = dy ⊙ weight:
  ///   dx = scale · (h − mean(h) − x̂ · mean(h ⊙ x̂))      mean(h) for layer only
  template <class T>
  static void backward_row(const ssm::NormalizationBackward<T, HostSpace>& g, Index m, T* sums) {
    using Register = Batch<T, Arch>;
    const Rows<const T, Arch> x(g.forward.x), weight(g.forward.weight), dy(g.dy),
        residual(g.residual);
    const Rows<T, Arch> dx(g.dx);
    const bool centered = g.forward.kind == NormalizationKind::layer;
    const Index width = g.dy.extent(1);
    const Register mean(centered ? g.mean(m) : T{0});
    const Register scale(g.scale(m));
    Register sum_h(T{0}), sum_hx(T{0});
    detail::for_each_register<T, Arch>(width, [&](Index d, Index count) {
      const Register normalized = (x.load(m, d, count) - mean) * scale;
      Register h = dy.load(m, d, count);  // 0 beyond the row: the sums below stay exact
      const auto add_to = [&](T* row, const Register& value) {
        scatter<T, Arch>(row + d, 1, count, gather<T, Arch>(row + d, 1, count) + value);
      };
      if (g.dweight) add_to(sums, h * normalized);
      if (g.dbias) add_to(sums + width, h);
      if (g.residual_sum) add_to(sums + 2 * width, residual.load(m, d, count));
      if (weight) h *= weight.load(0, d, count);
      sum_h += h;
      sum_hx = xsimd::fma(h, normalized, sum_hx);
    });
    const T share = T{1} / static_cast<T>(width);
    const Register mean_h(centered ? sum_of_lanes(sum_h) * share : T{0});
    const Register mean_hx(sum_of_lanes(sum_hx) * share);
    detail::for_each_register<T, Arch>(width, [&](Index d, Index count) {
      const Register normalized = (x.load(m, d, count) - mean) * scale;
      Register h = dy.load(m, d, count);
      if (weight) h *= weight.load(0, d, count);
      Register value = scale * (h - mean_h - normalized * mean_hx);
      if (residual) value += residual.load(m, d, count);
      if (g.accumulate) value += dx.load(m, d, count);
      dx.store(m, d, count, value);
    });
  }
};

}  // namespace ssm::cpu
