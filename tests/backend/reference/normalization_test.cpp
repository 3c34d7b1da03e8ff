// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/normalization.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("a row of four gives the hand-worked numbers") {
  Context<Reference> ctx;
  const auto x = tensor_of({1, 3, 1, 3});  // mean 2, variance 1, mean square 5
  const auto weight = tensor_of({1, 1, 2, 2});
  const auto bias = tensor_of({0, 0, 0, 10});
  auto y = nan_tensor(1, 4);
  auto mean = nan_tensor(1);
  auto scale = nan_tensor(1);
  normalization(ctx, Normalization<double, HostSpace>{.eps = 3,
                                                      .x = x.reshape(1, 4),
                                                      .weight = weight,
                                                      .bias = bias,
                                                      .y = y,
                                                      .mean = mean,
                                                      .scale = scale});
  CHECK(difference(y, tensor_of({-0.5, 0.5, -1, 11}).reshape(1, 4)) == 0);
  CHECK(mean(0) == 2);
  CHECK(scale(0) == 0.5);
  normalization(ctx, Normalization<double, HostSpace>{.kind = NormalizationKind::rms,
                                                      .eps = 11,
                                                      .x = x.reshape(1, 4),
                                                      .weight = weight,
                                                      .y = y,
                                                      .scale = scale});
  CHECK(difference(y, tensor_of({0.25, 0.75, 0.5, 1.5}).reshape(1, 4)) == 0);
}

TEST_CASE("a large mean leaves the digits of the variance") {
  Context<Reference> ctx;
  const auto x = tensor_of({1e8 + 1, 1e8 - 1});
  auto y = nan_tensor(1, 2);
  normalization(ctx, Normalization<double, HostSpace>{.eps = 0, .x = x.reshape(1, 2), .y = y});
  CHECK(difference(y, tensor_of({1, -1}).reshape(1, 2)) < tolerance<double>.value);
}

TEST_CASE("gradients equal central differences, with parameters and without") {
  for (const NormalizationKind kind : {NormalizationKind::layer, NormalizationKind::rms})
    for (const Index rows : {0, 1, 5})
      for (const bool with_parameters : {false, true}) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(rows);
        Context<Reference> ctx;
        auto x = random_tensor("x", rows, 6);
        auto weight = random_tensor("weight", 6);
        auto bias = random_tensor("bias", 6);
        const auto dy = random_tensor("dy", rows, 6);
        auto y = nan_tensor(rows, 6);
        auto mean = nan_tensor(rows);
        auto scale = nan_tensor(rows);
        Normalization<double, HostSpace> forward{
            .kind = kind, .eps = 0.01, .x = x, .y = y, .mean = mean, .scale = scale};
        if (with_parameters) forward.weight = weight;
        if (with_parameters && kind == NormalizationKind::layer) forward.bias = bias;
        normalization(ctx, forward);
        const auto mean_of_forward = mean.clone();
        const auto scale_of_forward = scale.clone();
        auto dx = nan_tensor(rows, 6);
        auto dweight = zero_tensor(6);
        auto dbias = zero_tensor(6);
        NormalizationBackward<double, HostSpace> backward{.forward = forward,
                                                          .mean = mean_of_forward,
                                                          .scale = scale_of_forward,
                                                          .dy = dy,
                                                          .dx = dx};
        if (with_parameters) backward.dweight = dweight;
        if (forward.bias) backward.dbias = dbias;
        normalization_backward(ctx, backward);
        const auto loss = [&] {
          normalization(ctx, forward);
          return inner_product(dy, y);
        };
        CHECK(gradient_error(loss, x, dx) < tolerance<double>.gradient);
        CHECK(gradient_error(loss, weight, dweight) < tolerance<double>.gradient);
        if (forward.bias) CHECK(gradient_error(loss, bias, dbias) < tolerance<double>.gradient);
      }
}

TEST_CASE("a gradient may be added to the one of a residual stream") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 3, 6);
  const auto dy = random_tensor("dy", 3, 6);
  const auto residual = random_tensor("residual", 3, 6);
  auto y = nan_tensor(3, 6);
  auto mean = nan_tensor(3);
  auto scale = nan_tensor(3);
  normalization(ctx,
                Normalization<double, HostSpace>{.x = x, .y = y, .mean = mean, .scale = scale});
  NormalizationBackward<double, HostSpace> backward{
      .forward = {.x = x}, .mean = mean, .scale = scale, .dy = dy};
  auto alone = nan_tensor(3, 6);
  backward.dx = alone;
  normalization_backward(ctx, backward);
  auto added = residual.clone();
  backward.dx = added;
  backward.accumulate = true;
  normalization_backward(ctx, backward);
  for_each_index(alone, [&](Index m, Index d) { alone(m, d) += residual(m, d); });
  CHECK(difference(added, alone) == 0);
}

TEST_CASE("a weight of another width is named") {
  Context<Reference> ctx;
  const auto x = zero_tensor(2, 3);
  const auto weight = zero_tensor(4);
  auto y = nan_tensor(2, 3);
  CHECK_THROWS_WITH_AS(
      normalization(ctx, Normalization<double, HostSpace>{.x = x, .weight = weight, .y = y}),
      "normalization: weight must be [3], got [4]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
