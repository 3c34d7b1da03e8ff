// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <limits>

#include "ssm/core/scalar.hpp"  // Token
#include "ssm/op/sample.hpp"
#include "support/layout.hpp"

namespace ssm::test {

inline const Sampling all_samplings[] = {
    {},
    {.temperature = 0},
    {.temperature = 0.3},
    {.temperature = 1e-300},
    {.temperature = 1e30, .top_k = 5},
    {.top_k = 1},
    {.top_k = 7},
    {.top_k = 10'000},
    {.top_p = 0.5},
    {.top_p = 0.999},
    {.min_p = 0.3},
    {.min_p = 1},
    {.temperature = 2, .top_k = 40, .top_p = 0.8, .min_p = 0.2},
    {.top_k = 3, .top_p = 1e-9}};

template <class T, class Ctx>
DynamicTensor<Token, 1> drawn(Ctx& ctx, const View<const T, 2>& logits, const Sampling& sampling,
                              Index vocabulary = dyn) {
  DynamicTensor<Token, 1> tokens({logits.extent(0)});
  sample(ctx, Sample<T, HostSpace>{.logits = logits,
                                   .vocabulary = vocabulary,
                                   .sampling = sampling,
                                   .seed = Seed{3},
                                   .counter = 11,
                                   .tokens = tokens});
  return tokens;
}

inline void expect_equal(const DynamicTensor<Token, 1>& actual,
                         const DynamicTensor<Token, 1>& expected) {
  for_each_index(expected, [&](Index b) { CHECK(actual(b) == expected(b)); });
}

/// Draws nothing from no rows, and throws for an empty vocabulary and for logits that are not
/// finite.
template <class Ctx>
void expect_refusals(Ctx& ctx) {
  CHECK(drawn<float>(ctx, zero_tensor<float>(0, 5), {}).size() == 0);
  CHECK_THROWS_AS(drawn<float>(ctx, zero_tensor<float>(2, 0), {}), ArgumentError);
  auto logits = zero_tensor<float>(2, 5);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    logits(1, 3) = bad;
    CHECK_THROWS_WITH_AS(drawn<float>(ctx, logits, {}),
                         "sample: the logit of token 3 in row 1 is not finite", ArgumentError);
  }
}

}  // namespace ssm::test
