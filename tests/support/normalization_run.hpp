// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/normalization.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct NormalizationCase {
  NormalizationKind kind = NormalizationKind::layer;
  Index rows = 3, width = 65;
  bool weight = true, bias = true, eps_scale = false, accumulate = false;
  Layout layout = Layout::rows;
};

template <class T>
struct NormalizationRun {
  using S = Wide<T>;

  NormalizationRun(const NormalizationCase& test, Layout layout)
      : weight(random_tensor<S>("weight", test.width)),
        bias(random_tensor<S>("bias", test.width)),
        eps_scale(random_tensor<S>("eps_scale", test.rows)),
        x(place_copy(layout, random_tensor<T>("x", test.rows, test.width))),
        dy(place_copy(layout, random_tensor<T>("dy", test.rows, test.width))),
        y(place<T>(layout, test.rows, test.width)),
        dx(place<T>(layout, test.rows, test.width)),
        mean(nan_tensor<S>(test.rows)),
        scale(nan_tensor<S>(test.rows)),
        dweight(random_tensor<S>("dweight", test.width)),
        dbias(random_tensor<S>("dbias", test.width)) {
    for_each_index(eps_scale, [&](Index m) { eps_scale(m) = S{3} + S{2} * eps_scale(m); });
    if (test.accumulate) copy_into(dx.view, random_tensor<T>("dx", test.rows, test.width));
  }

  template <class Ctx>
  void compute(Ctx& ctx, const NormalizationCase& test) {
    const Normalization<T, HostSpace> forward{
        .kind = test.kind,
        .eps = 1e-3,
        .x = x,
        .weight = test.weight ? weight.view() : View<S, 1>(),
        .bias = test.bias ? bias.view() : View<S, 1>(),
        .eps_scale = test.eps_scale ? eps_scale.view() : View<S, 1>(),
        .y = y,
        .mean = mean,
        .scale = scale};
    normalization(ctx, forward);
    normalization_backward(ctx, NormalizationBackward<T, HostSpace>{
                                    .forward = forward,
                                    .mean = mean,
                                    .scale = scale,
                                    .dy = dy,
                                    .accumulate = test.accumulate,
                                    .dx = dx,
                                    .dweight = test.weight ? dweight.view() : View<S, 1>(),
                                    .dbias = test.bias ? dbias.view() : View<S, 1>()});
  }

  DynamicTensor<S, 1> weight, bias, eps_scale;
  Placed<T, 2> x, dy, y, dx;
  DynamicTensor<S, 1> mean, scale, dweight, dbias;
};

template <class T>
void expect_equal(const NormalizationCase& test, const NormalizationRun<T>& actual,
                  const NormalizationRun<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.scale, expected.scale) < tolerance<T>.value);
  if (test.kind == NormalizationKind::layer)
    CHECK(difference(actual.mean, expected.mean) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dweight, expected.dweight) < tolerance<T>.gradient);
  CHECK(difference(actual.dbias, expected.dbias) < tolerance<T>.gradient);
}

/// y may be the memory of x.
template <class T, class Ctx>
void expect_same_in_place(Ctx& ctx) {
  auto x = random_tensor<T>("x", 3, 65);
  auto y = nan_tensor<T>(3, 65);
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = y});
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = x});
  CHECK(difference(x, y) == 0);
}

}  // namespace ssm::test
