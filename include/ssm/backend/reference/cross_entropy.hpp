// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ssm/op/cross_entropy.hpp"

namespace ssm::reference {

/// CrossEntropy, one row at a time, in double precision.
struct CrossEntropy {
  template <class Ctx, Real T>
  static void cross_entropy(Ctx&, const ssm::CrossEntropy<T, typename Ctx::Space>& a) {
    Index counted = 0;
    for (Index m = 0; m < a.targets.extent(0); ++m)
      if (a.targets(m) != a.ignore_index) ++counted;
    const double share =
        a.reduction == Reduction::mean ? 1.0 / static_cast<double>(std::max<Index>(counted, 1)) : 1;

    double loss = 0;
    for (Index m = 0; m < a.logits.extent(0); ++m) {
      const Token target = a.targets(m);
      if (target == a.ignore_index) {
        if (a.dlogits)
          for (Index v = 0; v < a.logits.extent(1); ++v) a.dlogits(m, v) = 0;
        continue;
      }
      const double log_sum = log_sum_exp(a, m);
      loss += (log_sum - a.logits(m, target)) * share;
      if (!a.dlogits) continue;
      for (Index v = 0; v < a.logits.extent(1); ++v) {
        const double probability = std::exp(a.logits(m, v) - log_sum);
        a.dlogits(m, v) = static_cast<T>(a.scale * share * (probability - (v == target ? 1 : 0)));
      }
    }
    a.loss(0) = static_cast<T>(loss);
  }

 private:
  /// ln Σ exp(logits[m]), with the largest logit taken out so that nothing overflows.
  template <class T, class Space>
  static double log_sum_exp(const ssm::CrossEntropy<T, Space>& a, Index m) {
    double largest = -std::numeric_limits<double>::infinity();
    for (Index v = 0; v < a.logits.extent(1); ++v)
      largest = std::max(largest, double{a.logits(m, v)});
    double sum = 0;
    for (Index v = 0; v < a.logits.extent(1); ++v) sum += std::exp(a.logits(m, v) - largest);
    return largest + std::log(sum);
  }
};

}  // namespace ssm::reference
