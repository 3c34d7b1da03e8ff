// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/cross_entropy.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

DynamicTensor<Token, 1> tokens_of(std::initializer_list<double> numbers) {
  return tensor_of<Token>(numbers);
}

TEST_CASE("equal logits cost the logarithm of the vocabulary") {
  Context<Reference> ctx;
  const auto logits = zero_tensor(2, 8);
  const auto targets = tokens_of({0, 7});
  auto loss = nan_tensor(1);
  CrossEntropy<double, HostSpace> call{.logits = logits, .targets = targets, .loss = loss};
  cross_entropy(ctx, call);
  CHECK(std::abs(loss(0) - std::log(8.0)) < tolerance<double>.value);
  call.reduction = Reduction::sum;
  cross_entropy(ctx, call);
  CHECK(std::abs(loss(0) - 2 * std::log(8.0)) < tolerance<double>.value);
}

TEST_CASE("logits of three hundred neither overflow nor lose the loss") {
  Context<Reference> ctx;
  const auto logits = tensor_of<float>({300, -300, 0, -300, 300, 299});
  const auto targets = tokens_of({1, 1});
  auto loss = nan_tensor<float>(1);
  auto dlogits = nan_tensor<float>(2, 3);
  cross_entropy(ctx, CrossEntropy<float, HostSpace>{.logits = logits.reshape(2, 3),
                                                    .targets = targets,
                                                    .reduction = Reduction::sum,
                                                    .loss = loss,
                                                    .dlogits = dlogits});
  const double softmax = 1 / (1 + std::exp(-1.0));
  CHECK(difference(loss, tensor_of({600 - std::log(softmax)})) < tolerance<float>.value);
  CHECK(difference(dlogits, tensor_of({1, -1, 0, 0, softmax - 1, 1 - softmax}).reshape(2, 3)) <
        tolerance<float>.gradient);
}

TEST_CASE("gradients equal central differences, rows without a target are zero") {
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    Context<Reference> ctx;
    auto logits = random_tensor("logits", 5, 4);
    const auto targets = tokens_of({3, -100, 0, 0, -100});
    auto loss = nan_tensor(1);
    auto dlogits = nan_tensor(5, 4);
    CrossEntropy<double, HostSpace> call{.logits = logits,
                                         .targets = targets,
                                         .reduction = reduction,
                                         .scale = 0.7,
                                         .loss = loss,
                                         .dlogits = dlogits};
    cross_entropy(ctx, call);
    call.dlogits = {};
    const auto scaled_loss = [&] {
      cross_entropy(ctx, call);
      return 0.7 * loss(0);
    };
    CHECK(gradient_error(scaled_loss, logits, dlogits) < tolerance<double>.gradient);
    for (Index v = 0; v < 4; ++v) CHECK(dlogits(1, v) == 0);
    auto in_place = logits.clone();
    call.logits = in_place;
    call.dlogits = in_place;
    cross_entropy(ctx, call);
    CHECK(difference(in_place, dlogits) == 0);
  }
}

TEST_CASE("no counted row is a loss of zero") {
  Context<Reference> ctx;
  const auto logits = random_tensor("logits", 2, 3);
  const auto targets = tokens_of({9, 9});
  auto loss = nan_tensor(1);
  auto dlogits = nan_tensor(2, 3);
  cross_entropy(ctx, CrossEntropy<double, HostSpace>{.logits = logits,
                                                     .targets = targets,
                                                     .ignore_index = 9,
                                                     .loss = loss,
                                                     .dlogits = dlogits});
  CHECK(loss(0) == 0);
  CHECK(difference(dlogits, zero_tensor(2, 3)) == 0);
  const auto no_logits = zero_tensor(0, 3);
  const auto no_targets = tokens_of({});
  loss(0) = 5;
  cross_entropy(ctx, CrossEntropy<double, HostSpace>{
                         .logits = no_logits, .targets = no_targets, .loss = loss});
  CHECK(loss(0) == 0);
}

TEST_CASE("a target outside the vocabulary is named") {
  Context<Reference> ctx;
  const auto logits = zero_tensor(2, 3);
  const auto targets = tokens_of({0, 3});
  auto loss = nan_tensor(1);
  CHECK_THROWS_WITH_AS(
      cross_entropy(
          ctx, CrossEntropy<double, HostSpace>{.logits = logits, .targets = targets, .loss = loss}),
      "cross_entropy: target 3 at row 1 is outside the vocabulary of 3", ArgumentError);
}

}  // namespace
}  // namespace ssm::test
