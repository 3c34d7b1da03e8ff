// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/normalization.hpp"

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

constexpr NormalizationKind kinds[] = {NormalizationKind::layer, NormalizationKind::rms};

struct Case {
  NormalizationKind kind = NormalizationKind::layer;
  Index rows = 3, width = 65;
  bool weight = true, bias = true, eps_scale = false, accumulate = false, residual = false;
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<Normalization<T, HostSpace>, NormalizationBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'M', test.rows}, {'D', test.width}}, layout, {},
                        left_out({{"weight", test.weight},
                                  {"bias", test.bias},
                                  {"eps_scale", test.eps_scale},
                                  {"mean", test.kind == NormalizationKind::layer}}),
                        test.accumulate ? InputGradients::added_to : InputGradients::overwritten) {
    this->forward.kind = test.kind;
    this->forward.eps = 1e-3;
    this->gradient.accumulate = test.accumulate;
    if (test.residual) this->gradient.residual = this->forward.x;  // as good as any
    if (test.eps_scale)
      for_each_element([](Wide<T>& x) { x = 3 + 2 * x; }, this->writable(this->forward.eps_scale));
  }
  void evaluate(auto& ctx) { normalization(ctx, this->forward); }
  void differentiate(auto& ctx) { normalization_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasNormalization<B, T>;
};

TEST_CASE("a row of four gives the hand-worked numbers") {
  for (const NormalizationKind kind : kinds) {
    const bool is_layer = kind == NormalizationKind::layer;
    Run<double> call({.kind = kind, .rows = 1, .width = 4, .bias = is_layer}, Layout::rows);
    auto& a = call.forward;
    call.set(a.x, {1, 3, 1, 3});  // mean 2, variance 1, mean square 5
    call.set(a.weight, {1, 1, 2, 2});
    if (is_layer) call.set(a.bias, {0, 0, 0, 10});
    a.eps = is_layer ? 3 : 11;
    const auto expected =
        is_layer ? tensor_of({-0.5, 0.5, -1, 11}) : tensor_of({0.25, 0.75, 0.5, 1.5});
    on_each_backend<Run<double>>([&](auto& ctx) {
      call.evaluate(ctx);
      CHECK(difference(a.y, expected.reshape(1, 4)) <= allowed_beside(ctx));
      CHECK(std::abs(a.scale(0) - (is_layer ? 0.5 : 0.25)) <= allowed_beside(ctx));
      if (is_layer) CHECK(a.mean(0) == 2);
    });
  }
}

TEST_CASE("a large mean leaves the digits of the variance") {
  Run<double> call({.rows = 1, .width = 2, .weight = false, .bias = false}, Layout::rows);
  call.set(call.forward.x, {1e8 + 1, 1e8 - 1});
  call.forward.eps = 0;
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(call.forward.y, tensor_of({1, -1}).reshape(1, 2)) < tolerance<double>.value);
  });
}

TEST_CASE("gradients equal central differences, with parameters and without") {
  for (const NormalizationKind kind : kinds)
    for (const Index rows : {0, 1, 5})
      for (const bool with_parameters : {false, true})
        has_its_gradients<Run<double>>(
            {.kind = kind,
             .rows = rows,
             .width = 6,
             .weight = with_parameters,
             .bias = with_parameters && kind == NormalizationKind::layer});
}

TEST_CASE("a gradient may be added to the one of a residual stream") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> alone({.width = 6}, Layout::rows);
    Run<double> added({.width = 6, .accumulate = true}, Layout::rows);
    const auto residual = clone(added.gradient.dx);
    compute(ctx, alone);
    compute(ctx, added);
    for_each_element([](double& x, double r) { x += r; }, alone.gradient.dx, residual);
    CHECK(difference(added.gradient.dx, alone.gradient.dx) <= allowed_beside(ctx));
  });
}

TEST_CASE("the gradient of a residual stream may lie elsewhere") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> alone({.width = 6}, Layout::rows);
    Run<double> summed({.width = 6, .residual = true}, Layout::rows);
    compute(ctx, alone);
    compute(ctx, summed);
    for_each_element([](double& x, double r) { x += r; }, alone.gradient.dx, summed.forward.x);
    CHECK(difference(summed.gradient.dx, alone.gradient.dx) <= allowed_beside(ctx));
  });
}

TEST_CASE_TEMPLATE("the gradient of a residual stream is summed on the way", T, float, double,
                   BFloat16, Float16) {
  constexpr Case cases[] = {{.rows = 1, .width = 6, .residual = true},
                            {.rows = 5, .width = 6, .residual = true},
                            {.rows = 700, .width = 8, .residual = true},
                            {.rows = 520, .width = 776, .residual = true}};
  for (const Case& test : cases)
    on_every_backend<Run<T>>([&](auto& ctx) {
      Run<T> alone(test, Layout::rows), summed(test, Layout::rows);
      DynamicTensor<Wide<T>, 1> sum({test.width});
      fill(sum, 0.5);
      summed.gradient.residual_sum = sum;
      compute(ctx, alone);
      compute(ctx, summed);
      CHECK(difference(summed.gradient.dx, alone.gradient.dx) == 0);
      for (Index d = 0; d < test.width; ++d) {
        double expected = 0.5;
        for (Index m = 0; m < test.rows; ++m)
          expected += scalar_cast<double>(summed.forward.x(m, d));
        CHECK(std::abs(double{sum(d)} - expected) <=
              tolerance<Wide<T>>.value * std::sqrt(static_cast<double>(test.rows)));
      }
    });
}

TEST_CASE("a sum of no residual stream is refused") {
  Context<Reference> ctx;
  Run<double> call({.rows = 2, .width = 3}, Layout::rows);
  compute(ctx, call);
  auto sum = zero_tensor(3);
  call.gradient.residual_sum = sum;
  CHECK_THROWS_WITH_AS(call.differentiate(ctx), "normalization_backward: residual is missing",
                       ShapeError);
}

TEST_CASE("a weight of another width is named") {
  Context<Reference> ctx;
  Run<double> call({.rows = 2, .width = 3}, Layout::rows);
  const auto weight = zero_tensor(4);
  call.forward.weight = weight;
  CHECK_THROWS_WITH_AS(call.evaluate(ctx), "normalization: weight must be [3], got [4]",
                       ShapeError);
}

TEST_CASE_TEMPLATE("both normalizations and their gradients equal the reference for every width", T,
                   float, double) {
  for (const auto kind : kinds)
    for (const Index width : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        for (const bool eps_scale : {false, true})
          equals_reference<Run<T>>({.kind = kind,
                                    .width = width,
                                    .bias = kind == NormalizationKind::layer,
                                    .eps_scale = eps_scale,
                                    .layout = layout});
}

TEST_CASE_TEMPLATE("weight and bias may be left out, and dx may be added to", T, float, double,
                   BFloat16, Float16) {
  for (const bool weight : {false, true})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        equals_reference<Run<T>>(
            {.rows = 50, .weight = weight, .bias = bias, .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("parameter gradients are sums over any number of rows", T, float, double,
                   BFloat16, Float16) {
  for (const auto kind : kinds)
    for (const Index rows : {0, 1, 31, 32, 64, 100, 1001})
      equals_reference<Run<T>>({.kind = kind, .rows = rows, .width = 7});
}

TEST_CASE_TEMPLATE("few rows and many, wider than what registers hold too", T, float, BFloat16,
                   Float16) {
  for (const auto kind : kinds)
    for (const Index rows : {5, 600})
      for (const Index width : {1, 64, 65, 768, 1032, 1804})
        for (const bool accumulate : {false, true})
          for (const bool residual : {false, true})
            equals_reference<Run<T>>({.kind = kind,
                                      .rows = rows,
                                      .width = width,
                                      .bias = kind == NormalizationKind::layer,
                                      .accumulate = accumulate,
                                      .residual = residual});
}

TEST_CASE_TEMPLATE("a row of equal numbers comes to its bias, however large they are", T, float,
                   double, BFloat16, Float16) {
  for (const Index rows : {1, 600})
    on_each_backend<Run<T>>([&](auto& ctx) {
      Run<T> call({.rows = rows, .width = 768}, Layout::rows);
      call.forward.eps = 1e-5;
      fill(call.writable(call.forward.x), scalar_cast<T>(24576.0));
      call.evaluate(ctx);
      const auto& a = call.forward;
      for_each_index(a.y, [&](Index m, Index d) {
        if (a.y(m, d) != scalar_cast<T>(scalar_cast<double>(a.bias(d)))) FAIL(m, ' ', d);
      });
    });
}

TEST_CASE_TEMPLATE("normalizing in place gives the same numbers", T, float, double) {
  on_each_backend<Run<T>>([](auto& ctx) {
    Run<T> apart({}, Layout::rows), in_place({}, Layout::rows);
    in_place.forward.y = in_place.writable(in_place.forward.x);
    apart.evaluate(ctx);
    in_place.evaluate(ctx);
    CHECK(difference(in_place.forward.y, apart.forward.y) == 0);
  });
}

}  // namespace
}  // namespace ssm::test
