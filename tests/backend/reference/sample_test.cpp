// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/sample.hpp"

#include <doctest/doctest.h>

#include <array>
#include <limits>

#include "ssm/backend/reference.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Index draws = 20'000;

/// How often each token comes up for one row of probabilities.
std::array<double, 4> frequencies(std::array<double, 4> probabilities, const Sampling& sampling) {
  Context<Reference> ctx;
  auto logits = zero_tensor(draws, 4);
  for_each_index(logits, [&](Index b, Index v) {
    logits(b, v) = std::log(probabilities[static_cast<std::size_t>(v)]);
  });
  DynamicTensor<Token, 1> tokens({draws});
  sample(ctx, Sample<double, HostSpace>{
                  .logits = logits, .sampling = sampling, .seed = Seed{5}, .tokens = tokens});
  std::array<double, 4> counts{};
  for (Index b = 0; b < draws; ++b) counts[static_cast<std::size_t>(tokens(b))] += 1;
  for (double& count : counts) count /= static_cast<double>(draws);
  return counts;
}

void check_frequencies(const Sampling& sampling, std::array<double, 4> expected) {
  const auto found = frequencies({0.1, 0.5, 0.15, 0.25}, sampling);
  for (std::size_t v = 0; v < 4; ++v) {
    CAPTURE(v);
    const double deviation =
        std::sqrt(expected[v] * (1 - expected[v]) / static_cast<double>(draws));
    CHECK(std::abs(found[v] - expected[v]) <= 5 * deviation);  // exact where the chance is 0 or 1
  }
}

TEST_CASE("tokens come up as often as their probability says") {
  check_frequencies({}, {0.1, 0.5, 0.15, 0.25});
}

TEST_CASE("temperature sharpens the distribution and zero takes the likeliest") {
  const double sum = 0.01 + 0.25 + 0.0225 + 0.0625;
  check_frequencies({.temperature = 0.5}, {0.01 / sum, 0.25 / sum, 0.0225 / sum, 0.0625 / sum});
  check_frequencies({.temperature = 0}, {0, 1, 0, 0});
  check_frequencies({.temperature = 1e-300}, {0, 1, 0, 0});
}

TEST_CASE("top-k keeps the k likeliest tokens") {
  check_frequencies({.top_k = 1}, {0, 1, 0, 0});
  check_frequencies({.top_k = 2}, {0, 2.0 / 3, 0, 1.0 / 3});
  check_frequencies({.top_k = 9}, {0.1, 0.5, 0.15, 0.25});
}

TEST_CASE("top-p keeps the fewest tokens whose probabilities reach p") {
  check_frequencies({.top_p = 0.4}, {0, 1, 0, 0});
  check_frequencies({.top_p = 0.6}, {0, 2.0 / 3, 0, 1.0 / 3});
  check_frequencies({.top_k = 3, .top_p = 0.9}, {0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9});
}

TEST_CASE("top-p looks at the probabilities of what top-k kept") {
  check_frequencies({.top_k = 2, .top_p = 0.6},
                    {0, 1, 0, 0});  // 0.5 of 0.75 is enough, 0.5 of 1 is not
  check_frequencies({.top_p = 0.6}, {0, 2.0 / 3, 0, 1.0 / 3});
}

TEST_CASE("min-p keeps what is likely enough beside the likeliest") {
  check_frequencies({.min_p = 0.4}, {0, 2.0 / 3, 0, 1.0 / 3});
  check_frequencies({.min_p = 1}, {0, 1, 0, 0});
}

TEST_CASE("among equal logits the lowest token wins") {
  Context<Reference> ctx;
  const auto logits = zero_tensor(1, 4);
  DynamicTensor<Token, 1> tokens({1});
  sample(ctx, Sample<double, HostSpace>{
                  .logits = logits, .sampling = {.temperature = 0}, .tokens = tokens});
  CHECK(tokens(0) == 0);
  sample(ctx,
         Sample<double, HostSpace>{.logits = logits, .sampling = {.top_k = 1}, .tokens = tokens});
  CHECK(tokens(0) == 0);
}

TEST_CASE("row b of call c draws number c·B + b of the stream") {
  Context<Reference> ctx;
  const auto logits = zero_tensor(6, 1000);
  DynamicTensor<Token, 1> together({6});
  DynamicTensor<Token, 1> apart({2});
  sample(ctx, Sample<double, HostSpace>{.logits = logits, .seed = Seed{9}, .tokens = together});
  for (Index c = 0; c < 3; ++c) {
    sample(ctx, Sample<double, HostSpace>{.logits = logits.slice(0, 0, 2),
                                          .seed = Seed{9},
                                          .counter = static_cast<std::uint64_t>(c),
                                          .tokens = apart});
    CHECK(apart(0) == together(2 * c));
    CHECK(apart(1) == together(2 * c + 1));
  }
}

TEST_CASE("padding beyond the vocabulary is never drawn nor looked at") {
  Context<Reference> ctx;
  auto logits = zero_tensor(1, 4);
  logits(0, 3) = std::numeric_limits<double>::quiet_NaN();
  DynamicTensor<Token, 1> tokens({1});
  for (std::uint64_t counter = 0; counter < 100; ++counter) {
    sample(ctx, Sample<double, HostSpace>{
                    .logits = logits, .vocabulary = 3, .counter = counter, .tokens = tokens});
    CHECK(tokens(0) < 3);
  }
}

TEST_CASE("options outside their range and logits that are not finite are refused") {
  Context<Reference> ctx;
  auto logits = zero_tensor(1, 4);
  DynamicTensor<Token, 1> tokens({1});
  Sample<double, HostSpace> call{.logits = logits, .tokens = tokens};
  for (const Sampling& sampling : {Sampling{.top_k = -1}, Sampling{.top_p = 0},
                                   Sampling{.top_p = 1.1}, Sampling{.min_p = -0.1}}) {
    call.sampling = sampling;
    CHECK_THROWS_AS(sample(ctx, call), ArgumentError);
  }
  call.sampling = {};
  call.vocabulary = 5;
  CHECK_THROWS_AS(sample(ctx, call), ArgumentError);
  call.vocabulary = dyn;
  logits(0, 2) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(sample(ctx, call), "sample: the logit of token 2 in row 0 is not finite",
                       ArgumentError);
}

}  // namespace
}  // namespace ssm::test
