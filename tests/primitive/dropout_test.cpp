// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/dropout.hpp"

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index length = 65;
  double probability = 0.5;
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<Dropout<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout) : Run::OperandRun({{'N', test.length}}, layout) {
    this->forward.probability = test.probability;
    this->forward.seed = Seed{123456789012345};
  }
  void evaluate(auto& ctx) { dropout(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasDropout<B, T>;
};

TEST_CASE("kept elements are scaled so that the mean stays") {
  const Index n = 100'000;
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> call({.length = n, .probability = 0.25}, Layout::rows);
    const auto x = call.writable(call.forward.x);
    fill(x, 3);
    call.forward.y = x;
    call.evaluate(ctx);
    Index dropped = 0, others = 0;
    for_each_index(x, [&](Index i) {
      dropped += x(i) == 0;
      others += x(i) != 0 && x(i) != 4;
    });
    CHECK(others == 0);
    // five standard deviations of a binomial with n·p = 25 000
    CHECK(std::abs(static_cast<double>(dropped) - 25'000) < 5 * std::sqrt(25'000 * 0.75));
  });
}

TEST_CASE("the mask follows from the seed alone, so that the gradient is the same call") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({}, Layout::rows), mask({}, Layout::rows), other({}, Layout::rows);
    for (auto* ones : {&mask, &other}) fill(ones->writable(ones->forward.x), 1);
    other.forward.seed = Seed{4};
    for (auto* each : {&call, &mask, &other}) each->evaluate(ctx);
    for (Index i = 0; i < 65; ++i)
      CHECK(
          call.forward.y(i) ==
          doctest::Approx(call.forward.x(i) * mask.forward.y(i)).epsilon(tolerance<double>.value));
    CHECK(difference(other.forward.y, mask.forward.y) > tolerance<double>.value);
  });
}

TEST_CASE("probability zero changes nothing and one is refused") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.length = 64, .probability = 0}, Layout::rows);
    call.evaluate(ctx);
    CHECK(difference(call.forward.y, call.forward.x) == 0);
    for (const double probability : {1.0, -0.1, std::nan("")}) {
      call.forward.probability = probability;
      CHECK_THROWS_AS(call.evaluate(ctx), ArgumentError);
    }
  });
}

TEST_CASE_TEMPLATE("dropout keeps exactly the elements that the reference keeps", T, float, double,
                   BFloat16, Float16) {
  for (const Index n : {0, 1, 2, 63, 64, 65, 1000, 5000})
    for (const double probability : {0.0, 0.1, 0.9})
      for (const Layout layout : {Layout::rows, Layout::gaps})
        for (const bool in_place : {false, true}) {
          CAPTURE(n);
          CAPTURE(probability);
          const Case test{.length = n, .probability = probability, .layout = layout};
          Context<Reference> reference;
          Run<T> expected(test, Layout::rows);
          expected.evaluate(reference);
          on_other_backends<Run<T>>([&](auto& ctx) {
            Run<T> actual(test, layout);
            if (in_place) actual.forward.y = actual.writable(actual.forward.x);
            actual.evaluate(ctx);
            expect_equal(actual, expected);
            Index others = 0;
            for_each_index(expected.forward.y, [&](Index i) {
              others += (expected.forward.y(i) == T{}) != (actual.forward.y(i) == T{});
            });
            CHECK(others == 0);
          });
        }
}

}  // namespace
}  // namespace ssm::test
