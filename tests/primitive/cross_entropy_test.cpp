// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/cross_entropy.hpp"

#include <cmath>
#include <initializer_list>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index rows = 5, vocabulary = 65;
  Reduction reduction = Reduction::mean;
  double spread = 5;        // of the logits
  Index ignored_every = 3;  // 1: all rows
  bool gradient = true, in_place = false;
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<CrossEntropy<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'M', test.rows}, {'V', test.vocabulary}}, layout, {},
                        left_out({{"dlogits", test.gradient}})) {
    auto& a = this->forward;
    a.reduction = test.reduction;
    a.scale = 3;
    for_each_element([&](T& x) { x = scalar_cast<T>(test.spread * scalar_cast<double>(x)); },
                     this->writable(a.logits));
    if (test.in_place) a.dlogits = this->writable(a.logits);
    const auto targets = this->writable(a.targets);
    const Index every = test.ignored_every;
    for_each_index(targets, [&](Index m) {
      targets(m) =
          m % every == 1 % every ? Token{-100} : static_cast<Token>(m * 7 % test.vocabulary);
    });
  }
  void evaluate(auto& ctx) { cross_entropy(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasCrossEntropy<B, T>;
};

/// The loss with its gradient; without it; and with it over the logits themselves.
template <class T>
void every_way_equals_reference(Case test) {
  CAPTURE(describe(test));
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.evaluate(reference);
  on_other_backends<Run<T>>([&](auto& ctx) {
    test.in_place = test.gradient = false;
    Run<T> alone(test, test.layout);
    alone.evaluate(ctx);
    CHECK(difference(alone.forward.loss, expected.forward.loss) < tolerance<T>.value);
    test.gradient = true;
    for (test.in_place = false;; test.in_place = true) {
      Run<T> both(test, test.layout);
      both.evaluate(ctx);
      CHECK(difference(both.forward.loss, expected.forward.loss) < tolerance<T>.value);
      CHECK(difference(both.forward.dlogits, expected.forward.dlogits) < tolerance<T>.gradient);
      if (test.in_place) break;
    }
  });
}

TEST_CASE("equal logits cost the logarithm of the vocabulary") {
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    Run<double> call({.rows = 2, .vocabulary = 8, .reduction = reduction, .spread = 0},
                     Layout::rows);
    call.set(call.forward.targets, {0, 7});
    on_each_backend<Run<double>>([&](auto& ctx) {
      call.evaluate(ctx);
      const double expected = (reduction == Reduction::mean ? 1 : 2) * std::log(8.0);
      CHECK(std::abs(call.forward.loss(0) - expected) < tolerance<double>.value);
    });
  }
}

TEST_CASE("logits of three hundred neither overflow nor lose the loss") {
  Run<float> call({.rows = 2, .vocabulary = 3, .reduction = Reduction::sum}, Layout::rows);
  auto& a = call.forward;
  call.set(a.logits, {300, -300, 0, -300, 300, 299});
  call.set(a.targets, {1, 1});
  a.scale = 1;
  const double softmax = 1 / (1 + std::exp(-1.0));
  const auto expected = tensor_of({1, -1, 0, 0, softmax - 1, 1 - softmax});
  on_each_backend<Run<float>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.loss, tensor_of({600 - std::log(softmax)})) < tolerance<float>.value);
    CHECK(difference(a.dlogits, expected.reshape(2, 3)) < tolerance<float>.gradient);
  });
}

TEST_CASE("gradients equal central differences, rows without a target are zero") {
  for (const Reduction reduction : {Reduction::mean, Reduction::sum})
    on_each_backend<Run<double>>([&](auto& ctx) {
      const Case test{.rows = 5, .vocabulary = 4, .reduction = reduction, .spread = 1};
      Run<double> call(test, Layout::rows), in_place(test, Layout::rows);
      for (auto* each : {&call, &in_place}) call.set(each->forward.targets, {3, -100, 0, 0, -100});
      call.evaluate(ctx);
      in_place.forward.dlogits = in_place.writable(in_place.forward.logits);
      in_place.evaluate(ctx);
      CHECK(difference(in_place.forward.dlogits, call.forward.dlogits) == 0);
      const auto dlogits = call.forward.dlogits;
      for (Index v = 0; v < 4; ++v) CHECK(dlogits(1, v) == 0);
      call.forward.dlogits = {};
      const auto scaled_loss = [&] {
        call.evaluate(ctx);
        return call.forward.scale * call.forward.loss(0);
      };
      CHECK(gradient_error(scaled_loss, call.writable(call.forward.logits), dlogits) <
            tolerance<double>.gradient);
    });
}

TEST_CASE("no counted row is a loss of zero") {
  on_each_backend<Run<double>>([](auto& ctx) {
    for (const Index rows : {0, 2}) {
      Run<double> call({.rows = rows, .vocabulary = 10}, Layout::rows);
      fill(call.writable(call.forward.targets), 9);
      call.forward.ignore_index = 9;
      call.evaluate(ctx);
      CHECK(call.forward.loss(0) == 0);
      CHECK(difference(call.forward.dlogits, zero_tensor(rows, 10)) == 0);
    }
  });
}

TEST_CASE("a target outside the vocabulary is named") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.rows = 2, .vocabulary = 3}, Layout::rows);
    call.set(call.forward.targets, {0, 3});
    CHECK_THROWS_WITH_AS(call.evaluate(ctx),
                         "cross_entropy: target 3 at row 1 is outside the vocabulary of 3",
                         ArgumentError);
  });
}

TEST_CASE_TEMPLATE("cross entropy and its gradient equal the reference for every vocabulary", T,
                   float, double) {
  for (const Index vocabulary : {1, 2, 3, 63, 64, 65, 1000})
    for (const auto reduction : {Reduction::mean, Reduction::sum})
      for (const Layout layout : all_layouts)
        for (const Index rows : {0, 1, 13})
          every_way_equals_reference<T>(
              {.rows = rows, .vocabulary = vocabulary, .reduction = reduction, .layout = layout});
}

TEST_CASE_TEMPLATE("rows of many logits", T, float, double, BFloat16, Float16) {
  for (const Index vocabulary : {2047, 2048, 5003, 40000})
    for (const Layout layout : all_layouts)
      every_way_equals_reference<T>({.rows = 4, .vocabulary = vocabulary, .layout = layout});
}

TEST_CASE_TEMPLATE("rows beyond one slice of the sum", T, float, double, BFloat16, Float16) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    every_way_equals_reference<T>({.rows = 2500, .vocabulary = 5, .reduction = reduction});
}

TEST_CASE_TEMPLATE("logits far apart overflow nothing", T, float, double) {
  every_way_equals_reference<T>({.spread = 1e4});
}

TEST_CASE_TEMPLATE("when every row is ignored, loss and gradient are zero", T, float, double,
                   BFloat16, Float16) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    every_way_equals_reference<T>(
        {.rows = 4, .reduction = reduction, .spread = 1, .ignored_every = 1});
}

#ifdef SSM_TEST_ON_CUDA
TEST_CASE("a target outside the vocabulary, where nobody could look, shows as NaN") {
  for (const double bad : {-1, 5}) {
    Run<float> call({.rows = 3, .vocabulary = 5}, Layout::rows);
    auto& a = call.forward;
    call.set(a.targets, {0, bad, 4});
    fill(a.loss, 0);
    fill(a.dlogits, 0);
    only<Device>([&](auto& ctx) { Device::cross_entropy(ctx, a); });
    CHECK(std::isnan(a.loss(0)));
    for (Index v = 0; v < 5; ++v) {
      CHECK(std::isnan(a.dlogits(1, v)));
      for (const Index m : {0, 2}) CHECK(std::isfinite(a.dlogits(m, v)));
    }
  }
}
#endif

}  // namespace
}  // namespace ssm::test
