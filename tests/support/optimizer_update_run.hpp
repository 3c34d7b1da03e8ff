// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/optimizer_update.hpp"
#include "support/layout.hpp"

namespace ssm::test {

/// Three AdamW updates of one tensor.
template <class T>
struct AdamWRun {
  AdamWRun(Index n, Layout where)
      : layout(where),
        parameter(place_copy(layout, random_tensor<T>("parameter", n))),
        first_moment(place_copy(layout, zero_tensor<T>(n))),
        second_moment(place_copy(layout, zero_tensor<T>(n))) {}

  template <class Ctx>
  void compute(Ctx& ctx) {
    for (const Index step : {1, 2, 3}) {
      const auto gradient = place_copy(
          layout, random_tensor<T>("gradient" + std::to_string(step), parameter.view.extent(0)));
      adamw_update(ctx, AdamWUpdate<T, HostSpace>{.rate = 1e-2,
                                                  .weight_decay = 0.1,
                                                  .gradient_scale = 0.5,
                                                  .step = step,
                                                  .parameter = parameter,
                                                  .gradient = gradient,
                                                  .first_moment = first_moment,
                                                  .second_moment = second_moment});
    }
  }

  Layout layout;
  Placed<T, 1> parameter, first_moment, second_moment;
};

template <class T>
void expect_equal(const AdamWRun<T>& actual, const AdamWRun<T>& expected) {
  CHECK(difference(actual.parameter.view, expected.parameter.view) < tolerance<T>.value);
  CHECK(difference(actual.first_moment.view, expected.first_moment.view) < tolerance<T>.value);
  CHECK(difference(actual.second_moment.view, expected.second_moment.view) < tolerance<T>.value);
}

/// 0.5 and, added to it, the sum of squares of x in this layout.
template <class T, class Ctx>
DynamicTensor<double, 1> half_and_squares(Ctx& ctx, const DynamicTensor<T, 1>& x, Layout layout) {
  auto sum = tensor_of({0.5});
  const auto placed = place_copy(layout, x);
  sum_of_squares(ctx, SumOfSquares<T, HostSpace>{.x = placed, .sum = sum});
  return sum;
}

}  // namespace ssm::test
