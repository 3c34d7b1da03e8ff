// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/cross_entropy.hpp"

namespace ssm::cpu {

/// ssm::cross_entropy, one row at a time; the rows' losses are added in order, in double.
template <class Arch>
struct CrossEntropy {
  template <class Ctx, Real T>
  static void cross_entropy(Ctx& ctx, const ssm::CrossEntropy<T, typename Ctx::Space>& a) {
    const Index rows = a.logits.extent(0);
    Index counted = 0;
    for (Index m = 0; m < rows; ++m) counted += a.targets(m) != a.ignore_index ? 1 : 0;
    const double share = a.reduction == Reduction::sum ? 1
                         : counted == 0                ? 0
                                                       : 1 / static_cast<double>(counted);
    auto frame = ctx.workspace().frame();
    const auto losses = frame.template tensor<double>(rows);
    parallel(ctx.resources().threads(), rows, 2, [&](Range range, int) {
      for (Index m = range.begin; m < range.end; ++m)
        losses(m) = row_loss(a, m, static_cast<T>(a.scale * share));
    });
    double sum = 0;
    for (Index m = 0; m < rows; ++m) sum += losses(m);
    a.loss(0) = static_cast<T>(sum * share);
  }

 private:
  /// The row's loss, and its gradient times `gradient_scale`.
  template <class T>
  static double row_loss(const ssm::CrossEntropy<T, HostSpace>& a, Index m, T gradient_scale) {
    using Register = Batch<T, Arch>;
    constexpr Index lanes = lane_count<T, Arch>;
    const Rows<const T, Arch> logits(a.logits);
    const Rows<T, Arch> dlogits(a.dlogits);
    const Index width = a.logits.extent(1);
    const auto for_each = [&](auto&& body) {
      for (Index v = 0; v < width; v += lanes) body(v, std::min(lanes, width - v));
    };
    const Token target = a.targets(m);
    if (target == a.ignore_index) {
      if (dlogits) for_each([&](Index v, Index n) { dlogits.store(m, v, n, Register(T{0})); });
      return 0;
    }
    constexpr T lowest = std::numeric_limits<T>::lowest();
    Register largest(lowest);
    for_each(
        [&](Index v, Index n) { largest = xsimd::max(largest, logits.load(m, v, n, lowest)); });
    const T top = largest_lane(largest);
    const double target_logit = static_cast<double>(a.logits(m, target)) - static_cast<double>(top);
    Register sum(T{0});
    for_each(
        [&](Index v, Index n) {  // the weights wait in dlogits, which may be the logits' own memory
          const Register weight = xsimd::exp(logits.load(m, v, n, lowest) - Register(top));
          if (dlogits) dlogits.store(m, v, n, weight);
          sum += weight;
        });
    const T total = sum_of_lanes(sum);
    if (dlogits) {
      const Register scale(gradient_scale / total);
      for_each([&](Index v, Index n) { dlogits.store(m, v, n, scale * dlogits.load(m, v, n)); });
      a.dlogits(m, target) -= gradient_scale;
    }
    return std::log(static_cast<double>(total)) - target_logit;
  }
};

}  // namespace ssm::cpu
