// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/op/optimizer_update.hpp"

namespace ssm::reference {

/// AdamWUpdate and SumOfSquares, one element at a time, in double precision.
struct OptimizerUpdate {
  template <class Ctx, Real T>
  static void adamw_update(Ctx&, const ssm::AdamWUpdate<T, typename Ctx::Space>& a) {
    const std::optional<double> factor = ssm::detail::gradient_factor(a);
    if (!factor) return;
    const auto t = static_cast<double>(a.step);
    const double first_correction = 1 - std::pow(a.beta1, t);
    const double second_correction = 1 - std::pow(a.beta2, t);
    for (Index i = 0; i < a.parameter.extent(0); ++i) {
      const double g = *factor * a.gradient(i);
      const double m = a.beta1 * a.first_moment(i) + (1 - a.beta1) * g;
      const double v = a.beta2 * a.second_moment(i) + (1 - a.beta2) * g * g;
      const double p = a.parameter(i);
      const double direction = m / first_correction / (std::sqrt(v / second_correction) + a.eps);
      a.first_moment(i) = static_cast<T>(m);
      a.second_moment(i) = static_cast<T>(v);
      a.parameter(i) = static_cast<T>(p - a.rate * a.weight_decay * p - a.rate * direction);
      if (a.copied) a.copied(i) = a.parameter(i);
      if (a.rounded_bf16) a.rounded_bf16(i) = scalar_cast<BFloat16>(a.parameter(i));
      if (a.rounded_f16) a.rounded_f16(i) = scalar_cast<Float16>(a.parameter(i));
    }
  }

  template <class Ctx, Real T>
  static void sum_of_squares(Ctx&, const ssm::SumOfSquares<T, typename Ctx::Space>& a) {
    double sum = 0;
    for (Index i = 0; i < a.x.extent(0); ++i) sum += double{a.x(i)} * a.x(i);
    a.sum(0) += sum;
  }
};

}  // namespace ssm::reference
