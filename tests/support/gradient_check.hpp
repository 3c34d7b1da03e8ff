// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "support/test_tensor.hpp"  // for_each_index

namespace ssm::test {

/// Compares a gradient, `gradient(i, j, …)`, with central differences of `loss`, for every element
/// of `values` that the loss reads. Returns the largest difference over max(1, largest gradient):
/// what `tolerance<double>.gradient` bounds. Nine points, error O(h⁸): three would not reach that
/// bound in double precision.
template <class F, class X, class G>
double gradient_error(F&& loss, X&& values, const G& gradient) {
  constexpr double step = 1e-3;
  constexpr std::array weights{4.0 / 5, -1.0 / 5, 4.0 / 105, -1.0 / 280};
  double error = 0;
  double largest = 1;
  for_each_index(values, [&](auto... i) {
    double& value = values(i...);
    const double kept = value;
    const auto loss_at = [&](double offset) {
      value = kept + offset;
      return loss();
    };
    double expected = 0;
    for (std::size_t k = 0; k < weights.size(); ++k) {
      const double offset = step * static_cast<double>(k + 1);
      expected += weights[k] * (loss_at(offset) - loss_at(-offset)) / step;
    }
    value = kept;
    const double distance = std::abs(gradient(i...) - expected);
    error =
        std::isnan(distance) ? std::numeric_limits<double>::infinity() : std::max(error, distance);
    largest = std::max(largest, std::abs(expected));
  });
  return error / largest;
}

}  // namespace ssm::test
