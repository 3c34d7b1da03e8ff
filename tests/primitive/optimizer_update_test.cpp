// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/optimizer_update.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index length = 65;
  Layout layout = Layout::rows;
};

/// Three AdamW updates of one tensor.
template <class T>
struct Run : OperandRun<AdamWUpdate<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'N', test.length}}, layout, {},
                        {"copied", "rounded_bf16", "rounded_f16", "squares", "losses"}) {
    auto& a = this->forward;
    a.rate = 1e-2;
    a.weight_decay = 0.1;
    a.gradient_scale = 0.5;
    fill(a.first_moment, 0);
    fill(a.second_moment, 0);
  }
  void evaluate(auto& ctx) {
    for (this->forward.step = 1; this->forward.step <= 3; ++this->forward.step) {
      const std::string name = "gradient" + std::to_string(this->forward.step);
      copy(random_tensor<T>(name, this->forward.parameter.extent(0)),
           this->writable(this->forward.gradient));
      adamw_update(ctx, this->forward);
    }
  }
  template <class B>
  static constexpr bool exists = HasOptimizerUpdate<B, T>;
};

TEST_CASE("two steps give the hand-worked numbers") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.length = 1}, Layout::rows);
    auto& a = call.forward;
    a.rate = 0.1;
    a.beta1 = 0.5;
    a.beta2 = 0.75;
    a.eps = 1;
    a.weight_decay = 0.5;
    call.set(a.parameter, {1});
    call.set(a.gradient, {4});
    adamw_update(ctx, a);
    // g = 2: m = 1, v = 1, both corrected to 2 and 4, so the direction is 2 / (2 + 1)
    CHECK(a.first_moment(0) == 1);
    CHECK(a.second_moment(0) == 1);
    const double after_one = 1 - 0.1 * 0.5 - 0.1 * 2 / 3;
    CHECK(std::abs(a.parameter(0) - after_one) < tolerance<double>.value);
    a.step = 2;
    call.set(a.gradient, {-2});  // g = −1: m = 0, v = 1
    adamw_update(ctx, a);
    CHECK(a.first_moment(0) == 0);
    CHECK(a.second_moment(0) == 1);
    CHECK(std::abs(a.parameter(0) - after_one * (1 - 0.1 * 0.5)) < tolerance<double>.value);
  });
}

TEST_CASE("the first step without eps moves every element by the rate, whatever its gradient") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({}, Layout::rows);
    auto& a = call.forward;
    fill(a.parameter, 0);
    a.eps = 0;
    adamw_update(ctx, a);
    for_each_index(a.parameter, [&](Index i) {
      CHECK(std::abs(a.parameter(i) - (a.gradient(i) > 0 ? -0.01 : 0.01)) <
            tolerance<double>.value);
    });
  });
}

/// Two updates of one tensor: one that finds its factor in `squares`, one that is told.
template <class T>
struct Clipped {
  Run<T> found{{}, Layout::rows}, told{{}, Layout::rows};
  DynamicTensor<double, 1> squares{DynamicExtents<1>(1)};
  DynamicTensor<T, 1> losses{DynamicExtents<1>(3)};

  Clipped(double sum, double clip_norm) {
    fill(squares.view(), sum);
    fill(losses.view(), 2);
    found.forward.squares = squares;
    found.forward.losses = losses;
    found.forward.clip_norm = clip_norm;
  }
  void evaluate(auto& ctx) {
    adamw_update(ctx, found.forward);
    adamw_update(ctx, told.forward);
  }
  double difference_of_all() const {
    const auto &a = found.forward, &b = told.forward;
    return difference(a.parameter, b.parameter) + difference(a.first_moment, b.first_moment) +
           difference(a.second_moment, b.second_moment);
  }
};

TEST_CASE_TEMPLATE("gradients are clipped by the norm of all of them", T, float, double) {
  on_each_backend<Run<T>>([](auto& ctx) {
    Clipped<T> above(100, 2), below(100, 5.5), off(100, 0);
    above.told.forward.gradient_scale = 0.5 * (2 / (5 + 1e-6));  // of 0.5 · √100
    for (auto* one : {&above, &below, &off}) {
      one->evaluate(ctx);
      CHECK(one->difference_of_all() == 0);
    }
  });
}

TEST_CASE_TEMPLATE("nothing is changed where the norm or a loss is not finite", T, float, double) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  on_each_backend<Run<T>>([](auto& ctx) {
    const auto changes_nothing = [&](Clipped<T>& one) {
      adamw_update(ctx, one.found.forward);
      const Run<T> before({}, Layout::rows);
      CHECK(difference(one.found.forward.parameter, before.forward.parameter) == 0);
      for (Index i = 0; i < one.found.forward.parameter.extent(0); ++i) {
        CHECK(one.found.forward.first_moment(i) == 0);
        CHECK(one.found.forward.second_moment(i) == 0);
      }
    };
    for (const double sum : {inf, nan}) {
      Clipped<T> one(sum, 1);
      changes_nothing(one);
      one.found.forward.clip_norm = 0;
      changes_nothing(one);
    }
    for (const double loss : {inf, -inf, nan})
      for (Index i = 0; i < 3; ++i) {
        Clipped<T> one(100, 1);
        one.losses(i) = static_cast<T>(loss);
        changes_nothing(one);
        one.found.forward.squares = {};
        changes_nothing(one);
      }
  });
}

TEST_CASE("moments of another length are named") {
  Context<Reference> ctx;
  Run<double> call({.length = 3}, Layout::rows);
  auto two = zero_tensor(2);
  call.forward.first_moment = two;
  CHECK_THROWS_WITH_AS(adamw_update(ctx, call.forward),
                       "adamw_update: first_moment must be [3], got [2]", ShapeError);
}

TEST_CASE_TEMPLATE("three AdamW updates equal the reference's", T, float, double) {
  for (const Index n : {0, 1, 2, 63, 64, 65, 1000, 20000})
    for (const Layout layout : {Layout::rows, Layout::gaps})
      equals_reference<Run<T>>({.length = n, .layout = layout});
}

/// Tensors of many lengths in one call.
template <class T>
struct ManyRun {
  static constexpr Index lengths[] = {1, 0, 7, 64, 1000, 3, 5000, 2, 12};
  std::vector<std::unique_ptr<Run<T>>> runs;
  std::vector<AdamWUpdate<T, HostSpace>> updates;
  std::vector<SumOfSquares<T, HostSpace>> squares;
  DynamicTensor<double, 1> sum{DynamicExtents<1>(1)}, norm{DynamicExtents<1>(1)};

  explicit ManyRun(Index count) {
    fill(sum.view(), 0.25);
    fill(norm.view(), 9);
    for (Index i = 0; i < count; ++i) {
      const Layout layout = i % 3 == 2 ? Layout::gaps : Layout::rows;
      auto& run =
          *runs.emplace_back(std::make_unique<Run<T>>(Case{.length = lengths[i % 9]}, layout));
      run.forward.rate = 1e-3 * static_cast<double>(i + 1);
      if (i % 16 > 5) run.forward.squares = norm;
      run.forward.clip_norm = i % 32 < 16 ? 1 : 0.5;
      updates.push_back(run.forward);
      squares.push_back({.x = run.forward.gradient, .sum = sum});
    }
  }
};

TEST_CASE_TEMPLATE("many tensors in one call are updated, and their squares added, as one by one",
                   T, float, double) {
  for (const Index count : {0, 1, 20, 95, 96, 97, 200})
    on_each_backend<Run<T>>([&](auto& ctx) {
      CAPTURE(count);
      ManyRun<T> together(count), apart(count);
      adamw_update(ctx, std::span<const AdamWUpdate<T, HostSpace>>(together.updates));
      sum_of_squares(ctx, std::span<const SumOfSquares<T, HostSpace>>(together.squares));
      for (Index i = 0; i < count; ++i) {
        const auto n = static_cast<std::size_t>(i);
        adamw_update(ctx, apart.updates[n]);
        sum_of_squares(ctx, apart.squares[n]);
        CHECK(difference(together.updates[n].parameter, apart.updates[n].parameter) == 0);
        CHECK(difference(together.updates[n].second_moment, apart.updates[n].second_moment) == 0);
      }
      CHECK(std::abs(together.sum(0) - apart.sum(0)) <= 1e-14 * apart.sum(0));
    });
}

template <class T>
struct SumRun : OperandRun<SumOfSquares<T, HostSpace>, NoGradient> {
  using Test = Case;
  SumRun(const Case& test, Layout layout) : SumRun::OperandRun({{'N', test.length}}, layout) {
    this->set(this->forward.sum, {0.5});
  }
  double evaluate(auto& ctx) {
    sum_of_squares(ctx, this->forward);
    return this->forward.sum(0);
  }
  template <class B>
  static constexpr bool exists = HasOptimizerUpdate<B, T>;
};

TEST_CASE("squares are added to the sum of other tensors, in double") {
  on_each_backend<SumRun<float>>([](auto& ctx) {
    SumRun<float> call({.length = 2}, Layout::rows);
    call.set(call.forward.x, {3, -4});
    call.set(call.forward.sum, {100});
    CHECK(call.evaluate(ctx) == 125);
    if (allowed_beside(ctx) > 0) return;
    call.set(call.forward.x, {1e30, 0});
    CHECK(call.evaluate(ctx) == doctest::Approx(1e60).epsilon(tolerance<float>.value));
  });
}

TEST_CASE_TEMPLATE("a sum of squares is added, and is the same for any layout and threads", T,
                   float, double) {
  for (const Index n : {0, 1, 63, 65, 1024, 1025, 100000}) {
    CAPTURE(n);
    Context<Reference> reference;
    const double expected = SumRun<T>({.length = n}, Layout::rows).evaluate(reference);
    double before = 0;
    double allowed = tolerance<T>.value;
    const auto adds_squares = [&](auto& ctx) {
      const double sum = SumRun<T>({.length = n}, Layout::rows).evaluate(ctx);
      CHECK(std::abs(sum - expected) < allowed * std::max(1.0, expected));
      CHECK(SumRun<T>({.length = n}, Layout::gaps).evaluate(ctx) == sum);
      if (before == 0) before = sum;
      CHECK(sum == before);
    };
#ifdef SSM_TEST_ON_HOST
    on_each_thread_count(adds_squares);
#endif
#ifdef SSM_TEST_ON_CUDA
    before = 0;
    allowed = tolerance<double>.value;
    only<Device>(adds_squares);
#endif
  }
}

}  // namespace
}  // namespace ssm::test
