// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/running_mean.hpp"

namespace ssm::reference {

/// RunningMean, position after position, the sums of all channels side by side in double precision.
struct RunningMean {
  template <class Ctx, Real T>
  static void running_mean(Ctx& ctx, const ssm::RunningMean<T, typename Ctx::Space>& a) {
    const Index channels = a.x.extent(2);
    auto frame = ctx.workspace().frame();
    const auto sum = frame.template tensor<double>(channels);
    for_each_sequence(a.x.extent(0), a.x.extent(1), a.segments, [&](Sequence s) {
      load(a.initial_sum, s.row, sum);
      for (Index t = s.begin; t < s.end; ++t) {
        const double count = count_at(a.position, s, t);
        for (Index d = 0; d < channels; ++d) {
          sum(d) += a.x(s.batch, t, d);
          a.y(s.batch, t, d) = static_cast<T>(sum(d) / count);
        }
      }
      store(sum, a.final_sum, s.row);
    });
  }

  template <class Ctx, Real T>
  static void running_mean_backward(Ctx& ctx,
                                    const ssm::RunningMeanBackward<T, typename Ctx::Space>& g) {
    const Index channels = g.dy.extent(2);
    auto frame = ctx.workspace().frame();
    const auto dsum = frame.template tensor<double>(channels);
    for_each_sequence(g.dy.extent(0), g.dy.extent(1), g.segments, [&](Sequence s) {
      load(g.dfinal_sum, s.row, dsum);
      for (Index t = s.end; t-- > s.begin;) {
        const double count = count_at(g.position, s, t);
        for (Index d = 0; d < channels; ++d) {
          dsum(d) += g.dy(s.batch, t, d) / count;
          if (g.dx) g.dx(s.batch, t, d) = static_cast<T>(dsum(d));
        }
      }
      store(dsum, g.dinitial_sum, s.row);
    });
  }

 private:
  template <class Space>
  static double count_at(const View<const std::int64_t, 1, Space>& position, const Sequence& s,
                         Index t) {
    const std::int64_t before = position ? position(s.row) : 0;
    return static_cast<double>(before + (t - s.begin) + 1);
  }
  template <class T, class Space>
  static void load(const View<const T, 2, Space>& from, Index row,
                   const View<double, 1, Space>& sum) {
    for (Index d = 0; d < sum.extent(0); ++d) sum(d) = from ? double{from(row, d)} : 0.0;
  }
  template <class T, class Space>
  static void store(const View<double, 1, Space>& sum, const View<T, 2, Space>& to, Index row) {
    if (!to) return;
    for (Index d = 0; d < sum.extent(0); ++d) to(row, d) = static_cast<T>(sum(d));
  }
};

}  // namespace ssm::reference
