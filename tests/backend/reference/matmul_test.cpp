// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/matmul.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("a product of two small matrices gives the hand-worked numbers") {
  Context<Reference> ctx;
  const auto a = tensor_of({1, 2, 3, 4, 5, 6});
  const auto b = tensor_of({1, -1, 0, 2, 3, 1});
  const auto bias = tensor_of({10, -20});
  auto c = nan_tensor(2, 2);
  auto z = nan_tensor(2, 2);
  auto a_sum = tensor_of({100, 200});
  matmul(ctx, Matmul<double, HostSpace>{.a = a.reshape(2, 3),
                                        .b = b.reshape(3, 2),
                                        .bias = bias,
                                        .activation = ActivationKind::relu,
                                        .c = c,
                                        .z = z,
                                        .a_sum = a_sum});
  CHECK(difference(z, tensor_of({20, -14, 32, -8}).reshape(2, 2)) == 0);
  CHECK(difference(c, tensor_of({20, 0, 32, 0}).reshape(2, 2)) == 0);
  CHECK(difference(a_sum, tensor_of({106, 215})) == 0);
  matmul(ctx, Matmul<double, HostSpace>{
                  .a = a.reshape(2, 3), .b = b.reshape(3, 2), .accumulate = true, .c = c});
  CHECK(difference(c, tensor_of({30, 6, 54, 12}).reshape(2, 2)) == 0);
}

TEST_CASE("transposed views are read where they are") {
  Context<Reference> ctx;
  const auto a = random_tensor("a", 5, 3);
  const auto b = random_tensor("b", 4, 5);
  auto c = nan_tensor(3, 4);
  matmul(ctx, Matmul<double, HostSpace>{.a = a.transpose(0, 1), .b = b.transpose(0, 1), .c = c});
  for (Index m = 0; m < 3; ++m)
    for (Index n = 0; n < 4; ++n) {
      double expected = 0;
      for (Index k = 0; k < 5; ++k) expected += a(k, m) * b(n, k);
      CHECK(std::abs(c(m, n) - expected) < tolerance<double>.value);
    }
}

TEST_CASE("the gradients of a linear layer are products too") {
  Context<Reference> ctx;
  auto x = random_tensor("x", 7, 3);
  auto weight = random_tensor("weight", 2, 3);
  auto bias = random_tensor("bias", 2);
  const auto dy = random_tensor("dy", 7, 2);
  auto y = nan_tensor(7, 2);
  auto dx = nan_tensor(7, 3);
  auto dweight = zero_tensor(2, 3);
  auto dbias = zero_tensor(2);
  matmul(ctx, Matmul<double, HostSpace>{.a = dy, .b = weight, .c = dx});
  matmul(ctx,
         Matmul<double, HostSpace>{
             .a = dy.transpose(0, 1), .b = x, .accumulate = true, .c = dweight, .a_sum = dbias});
  const auto loss = [&] {
    matmul(ctx,
           Matmul<double, HostSpace>{.a = x, .b = weight.transpose(0, 1), .bias = bias, .c = y});
    return inner_product(dy, y);
  };
  CHECK(gradient_error(loss, x, dx) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, weight, dweight) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, bias, dbias) < tolerance<double>.gradient);
}

TEST_CASE("an empty sum is the bias, and no rows are no work") {
  Context<Reference> ctx;
  const auto bias = tensor_of({1, 2});
  auto c = nan_tensor(3, 2);
  matmul(ctx,
         Matmul<double, HostSpace>{
             .a = zero_tensor(3, 0).view(), .b = zero_tensor(0, 2).view(), .bias = bias, .c = c});
  for (Index m = 0; m < 3; ++m) CHECK(difference(c.select(0, m), bias) == 0);
  auto none = nan_tensor(0, 2);
  CHECK_NOTHROW(
      matmul(ctx, Matmul<double, HostSpace>{
                      .a = zero_tensor(0, 3).view(), .b = zero_tensor(3, 2).view(), .c = none}));
}

TEST_CASE("inner extents that disagree are named") {
  Context<Reference> ctx;
  const auto a = zero_tensor(2, 3);
  const auto b = zero_tensor(4, 2);
  auto c = nan_tensor(2, 2);
  CHECK_THROWS_WITH_AS(matmul(ctx, Matmul<double, HostSpace>{.a = a, .b = b, .c = c}),
                       "matmul: b must be [3, *], got [4, 2]", ShapeError);
}

TEST_CASE("a product by numbers kept in bf16 is that by their values") {
  Context<Reference> ctx;
  const auto a = tensor_of({1, 2, 3, 4, 5, 6});
  DynamicTensor<BFloat16, 2> b({3, 2});
  const auto numbers = tensor_of({1, -1, 0, 2, 3, 1.00390625});  // the last lies between two bf16
  for (Index i = 0; i < 6; ++i) b.data()[i] = scalar_cast<BFloat16>(numbers(i));
  auto c = nan_tensor(2, 2);
  Matmul<double, HostSpace> product{.a = a.reshape(2, 3), .b_bf16 = b, .c = c};
  matmul(ctx, product);
  CHECK(difference(c, tensor_of({10, 6, 22, 12}).reshape(2, 2)) == 0);
  product.b = numbers.reshape(3, 2);
  CHECK_THROWS_WITH_AS(matmul(ctx, product), "matmul: b is given in more than one form",
                       ArgumentError);
  product.b = {};
  product.a = a.reshape(3, 2);
  CHECK_THROWS_WITH_AS(matmul(ctx, product), "matmul: b_bf16 must be [2, *], got [3, 2]",
                       ShapeError);
}

TEST_CASE("a product by whole numbers and a scale for each column is that by their values") {
  Context<Reference> ctx;
  const auto a = tensor_of({1, 2, 3, 4, 5, 6});
  DynamicTensor<std::int8_t, 2> b({3, 2});
  const std::int8_t numbers[] = {1, -127, 0, 2, 3, 1};
  std::copy_n(numbers, 6, b.data());
  DynamicTensor<float, 1> scale({2});
  const auto bias = tensor_of({10, 20});
  scale(0) = 0.5F;
  scale(1) = 2;
  auto c = nan_tensor(2, 2);
  Matmul<double, HostSpace> product{
      .a = a.reshape(2, 3), .b_int8 = b, .b_scale = scale, .bias = bias, .c = c};
  matmul(ctx, product);
  CHECK(difference(c, tensor_of({15, -220, 21, -964}).reshape(2, 2)) == 0);
  product.b_scale = {};
  CHECK_THROWS_WITH_AS(matmul(ctx, product), "matmul: b_scale is missing", ShapeError);
  product.b_scale = scale.view().slice(0, 0, 1);
  CHECK_THROWS_WITH_AS(matmul(ctx, product), "matmul: b_scale must be [2], got [1]", ShapeError);
  product.b_scale = scale;
  DynamicTensor<BFloat16, 2> bf16({3, 2});
  product.b_bf16 = bf16;
  CHECK_THROWS_WITH_AS(matmul(ctx, product), "matmul: b is given in more than one form",
                       ArgumentError);
}

}  // namespace
}  // namespace ssm::test
