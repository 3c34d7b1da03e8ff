// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/losses.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "ssm/core/elementwise.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/model/last_position.hpp"
#include "ssm/train/accuracy.hpp"
#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

TEST_CASE("the mean squared error is the mean over all elements, with its gradient") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    const auto y = tensor_of<T>({1, 2, 3, 4});
    const auto target = tensor_of<T>({1, 4, 0, 4});
    auto dy = nan_tensor<T>(4);
    CHECK(mean_squared_error(ctx, y, target, dy) == 13.0 / 4);
    CHECK(dy(0) == T{0});
    CHECK(dy(1) == T{-1});
    CHECK(dy(2) == T(1.5));
    CHECK(dy(3) == T{0});
    CHECK(mean_squared_error(ctx, y, target) == 13.0 / 4);
  });
}

TEST_CASE("the gradient of the mean squared error equals central differences") {
  Context<Reference> ctx;
  auto y = random_tensor("y", 2, 3, 4);
  const auto target = random_tensor("target", 2, 3, 4);
  auto dy = nan_tensor(2, 3, 4);
  mean_squared_error(ctx, y, target, dy);
  const auto loss = [&] { return mean_squared_error(ctx, y, target); };
  CHECK(gradient_error(loss, y, dy) < tolerance<double>.gradient);
}

TEST_CASE("operands of the mean squared error may be slices, of which nothing else is written") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    ctx.workspace().fill_with_nan(true);
    const auto all = random_tensor<T>("all", 3, 9, 2);
    const auto wanted = random_tensor<T>("wanted", 3, 9, 2);
    const auto y = clone(all.slice(1, 2, 7));
    const auto target = clone(wanted.slice(1, 1, 6));
    auto dy = nan_tensor<T>(3, 5, 2);
    const double expected = mean_squared_error(ctx, y, target, dy);
    auto wide = zero_tensor<T>(3, 9, 2);
    CHECK(mean_squared_error(ctx, all.slice(1, 2, 7), wanted.slice(1, 1, 6), wide.slice(1, 2, 7)) ==
          expected);
    for (Index b = 0; b < 3; ++b)
      for (Index t = 0; t < 9; ++t)
        CHECK(wide(b, t, 1) == (t < 2 || t >= 7 ? T{0} : dy(b, t - 2, 1)));
  });
}

TEST_CASE("losses refuse what does not fit, and the mean of nothing is zero") {
  Context<Reference> ctx;
  const auto y = zero_tensor(2, 3), target = zero_tensor(2, 4), none = zero_tensor(0, 3);
  CHECK_THROWS_WITH_AS(mean_squared_error(ctx, y, target),
                       "mean_squared_error: target must be [1, 2, 3], got [1, 2, 4]", ShapeError);
  CHECK(mean_squared_error(ctx, none, none) == 0);
  DynamicTensor<Token, 1> labels({2});
  labels(1) = 3;
  CHECK_THROWS_AS(cross_entropy(ctx, y, labels), ArgumentError);
}

TEST_CASE("cross-entropy of two or three axes, with and without its gradient") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    const auto logits = zero_tensor<T>(2, 3, 4);
    DynamicTensor<Token, 2> targets({2, 3});
    targets(0, 0) = 2;
    targets(1, 2) = -100;
    auto dlogits = nan_tensor<T>(2, 3, 4);
    CHECK(std::abs(cross_entropy(ctx, logits, targets, dlogits) - std::log(4.0)) <=
          tolerance<T>.value);
    CHECK(std::abs(dlogits(0, 0, 2) - T(-0.75 / 5)) <= tolerance<T>.gradient);
    CHECK(std::abs(dlogits(0, 0, 0) - T(0.25 / 5)) <= tolerance<T>.gradient);
    CHECK(dlogits(1, 2, 0) == T{0});
    CHECK(std::abs(cross_entropy(ctx, logits.reshape(6, 4), targets) - std::log(4.0)) <=
          tolerance<T>.value);
  });
}

TEST_CASE("a loss of the last position writes its gradient there and nowhere else") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(name);
    Context<B> ctx;
    const auto y = random_tensor<T>("y", 3, 5, 4);
    DynamicTensor<Token, 1> labels({3});
    auto dy = zero_tensor<T>(3, 5, 4);
    const double loss = cross_entropy(ctx, last_position(y), labels, last_position(dy));
    auto expected = nan_tensor<T>(3, 4);
    CHECK(std::abs(loss - cross_entropy(ctx, clone(last_position(y)), labels, expected)) <=
          tolerance<T>.value);
    for (Index b = 0; b < 3; ++b)
      for (Index t = 0; t < 5; ++t)
        for (Index v = 0; v < 4; ++v) CHECK(dy(b, t, v) == (t < 4 ? T{0} : expected(b, v)));
  });
}

TEST_CASE("accuracy is the share of rows whose largest logit is the target's") {
  const auto logits = tensor_of({0, 1, 2, 5, 1, 1, 3, 3, 1, 0, 9, 0});
  DynamicTensor<Token, 1> targets({4});
  targets(0) = 2;     // right
  targets(1) = 1;     // wrong
  targets(2) = 0;     // right: the first of equals
  targets(3) = -100;  // does not count
  CHECK(accuracy(logits.reshape(4, 3), targets) == 2.0 / 3);
  CHECK(accuracy(logits.reshape(2, 2, 3), targets.reshape(2, 2)) == 2.0 / 3);
  CHECK_THROWS_WITH_AS(accuracy(logits.reshape(3, 4), targets),
                       "accuracy: targets must be [3], got [4]", ShapeError);
}

}  // namespace
}  // namespace ssm::test
