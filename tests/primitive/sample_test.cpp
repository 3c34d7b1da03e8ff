// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/sample.hpp"

#include <array>
#include <limits>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

const Sampling all_samplings[] = {{},
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

struct Case {
  Index rows = 40, vocabulary = 65;
  double spread = 5;  // of the logits
  Sampling sampling{};
  Index used = dyn;  // of the vocabulary; the rest is NaN
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<Sample<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'M', test.rows}, {'V', test.vocabulary}}, layout) {
    this->forward.vocabulary = test.used;
    this->forward.sampling = test.sampling;
    this->forward.seed = Seed{3};
    this->forward.counter = 11;
    const auto logits = this->writable(this->forward.logits);
    for_each_element([&](T& x) { x *= static_cast<T>(test.spread); }, logits);
    if (test.used != dyn)
      fill(logits.slice(1, test.used, test.vocabulary), std::numeric_limits<T>::quiet_NaN());
  }
  void evaluate(auto& ctx) { sample(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasSample<B, T>;
};

/// For every option.
template <class T>
void samples_equal_reference(Case test) {
  for (const Sampling& sampling : all_samplings) {
    test.sampling = sampling;
    CAPTURE(test.vocabulary);
    CAPTURE(sampling.temperature);
    CAPTURE(sampling.top_k);
    CAPTURE(sampling.top_p);
    CAPTURE(sampling.min_p);
    equals_reference<Run<T>>(test);
  }
}

constexpr Index draws = 20'000;

/// How often each of four tokens comes up.
void check_frequencies(const Sampling& sampling, std::array<double, 4> expected) {
  constexpr double probabilities[] = {0.1, 0.5, 0.15, 0.25};
  Run<double> call({.rows = draws, .vocabulary = 4, .sampling = sampling}, Layout::rows);
  const auto logits = call.writable(call.forward.logits);
  for_each_index(logits, [&](Index b, Index v) { logits(b, v) = std::log(probabilities[v]); });
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    std::array<double, 4> found{};
    for_each_index(call.forward.tokens, [&](Index b) {
      found[static_cast<std::size_t>(call.forward.tokens(b))] += 1.0 / draws;
    });
    for (std::size_t v = 0; v < 4; ++v) {
      CAPTURE(v);
      const double deviation =
          std::sqrt(expected[v] * (1 - expected[v]) / static_cast<double>(draws));
      CHECK(std::abs(found[v] - expected[v]) <= 5 * deviation + 1e-11);
      CHECK((found[v] == 0) == (expected[v] == 0));
    }
  });
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
  // 0.5 of 0.75 is enough, 0.5 of 1 is not
  check_frequencies({.top_k = 2, .top_p = 0.6}, {0, 1, 0, 0});
}

TEST_CASE("min-p keeps what is likely enough beside the likeliest") {
  check_frequencies({.min_p = 0.4}, {0, 2.0 / 3, 0, 1.0 / 3});
  check_frequencies({.min_p = 1}, {0, 1, 0, 0});
}

TEST_CASE("among equal logits the lowest token wins") {
  for (const Sampling& sampling : {Sampling{.temperature = 0}, Sampling{.top_k = 1}})
    on_each_backend<Run<double>>([&](auto& ctx) {
      Run<double> call({.rows = 1, .vocabulary = 4, .spread = 0, .sampling = sampling},
                       Layout::rows);
      call.evaluate(ctx);
      CHECK(call.forward.tokens(0) == 0);
    });
}

TEST_CASE("row b of call c draws number c·B + b of the stream") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> together({.rows = 6, .vocabulary = 1000, .spread = 0}, Layout::rows);
    Run<double> apart({.rows = 2, .vocabulary = 1000, .spread = 0}, Layout::rows);
    together.forward.counter = 0;
    together.evaluate(ctx);
    for (Index c = 0; c < 3; ++c) {
      apart.forward.counter = static_cast<std::uint64_t>(c);
      apart.evaluate(ctx);
      CHECK(difference(apart.forward.tokens, together.forward.tokens.slice(0, 2 * c, 2 * c + 2)) ==
            0);
    }
  });
}

TEST_CASE("padding beyond the vocabulary is never drawn nor looked at") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 100, .vocabulary = 4, .spread = 0, .used = 3}, Layout::rows);
    call.evaluate(ctx);
    for_each_index(call.forward.tokens, [&](Index b) { CHECK(call.forward.tokens(b) < 3); });
  });
}

TEST_CASE("options outside their range and logits that are not finite are refused") {
  on_each_backend<Run<float>>([](auto& ctx) {
    Run<float> call({.rows = 2, .vocabulary = 5, .spread = 0}, Layout::rows);
    for (const Sampling& sampling : {Sampling{.top_k = -1}, Sampling{.top_p = 0},
                                     Sampling{.top_p = 1.1}, Sampling{.min_p = -0.1}}) {
      call.forward.sampling = sampling;
      CHECK_THROWS_AS(call.evaluate(ctx), ArgumentError);
    }
    call.forward.sampling = {};
    call.forward.vocabulary = 6;
    CHECK_THROWS_AS(call.evaluate(ctx), ArgumentError);
    call.forward.vocabulary = dyn;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -infinity, infinity}) {
      call.writable(call.forward.logits)(1, 3) = bad;
      CHECK_THROWS_WITH_AS(call.evaluate(ctx),
                           "sample: the logit of token 3 in row 1 is not finite", ArgumentError);
    }
    Run<float> no_tokens({.rows = 2, .vocabulary = 0}, Layout::rows);
    CHECK_THROWS_AS(no_tokens.evaluate(ctx), ArgumentError);
    Run<float> no_rows({.rows = 0, .vocabulary = 5}, Layout::rows);
    CHECK_NOTHROW(no_rows.evaluate(ctx));
  });
}

TEST_CASE_TEMPLATE("the same tokens as the reference, for every option", T, float, double) {
  for (const Index vocabulary : {1, 2, 16, 17, 63, 64, 65, 1000, 1025})
    samples_equal_reference<T>({.vocabulary = vocabulary});
}

TEST_CASE_TEMPLATE("a flat distribution makes top-p sort many fronts", T, float, double) {
  samples_equal_reference<T>({.rows = 5, .vocabulary = 5000, .spread = 1});
  for (const double top_p : {0.1, 0.9, 0.9999})
    equals_reference<Run<T>>(
        {.rows = 5, .vocabulary = 5000, .spread = 1, .sampling = {.top_p = top_p}});
}

TEST_CASE_TEMPLATE("among equal logits the lower tokens stay", T, float, double) {
  for (const Index vocabulary : {100, 3000})
    samples_equal_reference<T>({.rows = 30, .vocabulary = vocabulary, .spread = 0});
}

TEST_CASE_TEMPLATE("any layout, and columns beyond the vocabulary are not looked at", T, float,
                   double) {
  for (const Layout layout : all_layouts)
    samples_equal_reference<T>({.rows = 9, .vocabulary = 70, .used = 69, .layout = layout});
}

#ifdef SSM_TEST_ON_CUDA
TEST_CASE("a logit that is not finite, where nobody could look, draws token -1 in its row") {
  for (const Sampling& sampling : all_samplings) {
    Run<float> call({.rows = 3, .vocabulary = 1500, .spread = 0, .sampling = sampling},
                    Layout::rows);
    const auto logits = call.writable(call.forward.logits);
    logits(1, 1200) = std::numeric_limits<float>::quiet_NaN();
    logits(2, 3) = std::numeric_limits<float>::infinity();
    only<Device>([&](auto& ctx) {
      auto frame = ctx.workspace().frame();
      const auto scratch = cuda::sample_scratch(frame, 3, 1500, sampling);
      cuda::sample(cuda::on_device(call.forward), scratch, ctx.resources().stream());
      ctx.resources().synchronize();
    });
    CHECK(call.forward.tokens(0) >= 0);
    CHECK(call.forward.tokens(1) == -1);
    CHECK(call.forward.tokens(2) == -1);
  }
}
#endif

}  // namespace
}  // namespace ssm::test
