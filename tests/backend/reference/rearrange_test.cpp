// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/rearrange.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("a transposed copy has the elements where the strides say") {
  Context<Reference> ctx;
  const auto x = random_tensor("x", 3, 65, 2);
  auto y = nan_tensor(3, 2, 65);
  rearrange(ctx, Rearrange<double, HostSpace>{.x = x, .y = y.transpose(1, 2)});
  for_each_index(x, [&](Index b, Index t, Index d) { CHECK(y(b, d, t) == x(b, t, d)); });
}

TEST_CASE("a weighted sum may overwrite either of its terms") {
  Context<Reference> ctx;
  auto a = tensor_of({1, 2});
  auto b = tensor_of({10, 20});
  add(ctx, Add<double, HostSpace>{.a = a, .b = b, .a_scale = 2, .b_scale = 3, .y = a});
  CHECK(difference(a, tensor_of({32, 64})) == 0);
  add(ctx, Add<double, HostSpace>{.a = a, .b = b, .y = b});
  CHECK(difference(b, tensor_of({42, 84})) == 0);
  add(ctx, Add<double, HostSpace>{.a = a, .a_scale = 0.5, .y = a});
  CHECK(difference(a, tensor_of({16, 32})) == 0);
}

TEST_CASE("a fill reaches every element, whatever was there") {
  Context<Reference> ctx;
  auto y = nan_tensor<float>(65);
  fill(ctx, Fill<float, HostSpace>{.value = 0.5, .y = y});
  for (Index i = 0; i < 65; ++i) CHECK(y(i) == 0.5F);
  CHECK_THROWS_WITH_AS(fill(ctx, Fill<float, HostSpace>{}), "fill: y is missing", ShapeError);
}

TEST_CASE("a copy between different extents is refused") {
  Context<Reference> ctx;
  const auto x = zero_tensor(1, 2, 3);
  auto y = nan_tensor(1, 3, 2);
  CHECK_THROWS_WITH_AS(rearrange(ctx, Rearrange<double, HostSpace>{.x = x, .y = y}),
                       "rearrange: y must be [1, 2, 3], got [1, 3, 2]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
