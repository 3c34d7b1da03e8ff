// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/normalization.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  NormalizationKind kind = NormalizationKind::layer;
  Index rows = 3, width = 65;
  bool weight = true, bias = true, accumulate = false;
  Layout layout = Layout::rows;
};

template <class T>
struct Results {
  explicit Results(const Case& test, Layout layout)
      : y(place<T>(layout, test.rows, test.width)),
        dx(place<T>(layout, test.rows, test.width)),
        mean(nan_tensor<T>(test.rows)),
        scale(nan_tensor<T>(test.rows)),
        dweight(random_tensor<T>("dweight", test.width)),
        dbias(random_tensor<T>("dbias", test.width)) {
    if (test.accumulate) copy_into(dx.view, random_tensor<T>("dx", test.rows, test.width));
  }
  Placed<T, 2> y, dx;
  DynamicTensor<T, 1> mean, scale, dweight, dbias;
};

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(static_cast<int>(test.kind));
  CAPTURE(test.rows);
  CAPTURE(test.width);
  const auto x = random_tensor<T>("x", test.rows, test.width);
  const auto weight = random_tensor<T>("weight", test.width);
  const auto bias = random_tensor<T>("bias", test.width);
  const auto dy = random_tensor<T>("dy", test.rows, test.width);
  const auto run = [&](auto& ctx, Layout layout, Results<T>& out) {
    const auto placed_x = place_copy(layout, x);
    const auto placed_dy = place_copy(layout, dy);
    const Normalization<T, HostSpace> forward{
        .kind = test.kind,
        .eps = 1e-3,
        .x = placed_x,
        .weight = test.weight ? weight.view() : View<const T, 1>(),
        .bias = test.bias ? bias.view() : View<const T, 1>(),
        .y = out.y,
        .mean = out.mean,
        .scale = out.scale};
    normalization(ctx, forward);
    normalization_backward(ctx, NormalizationBackward<T, HostSpace>{
                                    .forward = forward,
                                    .mean = out.mean,
                                    .scale = out.scale,
                                    .dy = placed_dy,
                                    .accumulate = test.accumulate,
                                    .dx = out.dx,
                                    .dweight = test.weight ? out.dweight.view() : View<T, 1>(),
                                    .dbias = test.bias ? out.dbias.view() : View<T, 1>()});
  };
  Context<Reference> reference;
  Results<T> expected(test, Layout::rows);
  run(reference, Layout::rows, expected);
  on_each_thread_count([&](auto& ctx) {
    Results<T> actual(test, test.layout);
    run(ctx, test.layout, actual);
    CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
    CHECK(difference(actual.scale, expected.scale) < tolerance<T>.value);
    if (test.kind == NormalizationKind::layer)
      CHECK(difference(actual.mean, expected.mean) < tolerance<T>.value);
    CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
    CHECK(difference(actual.dweight, expected.dweight) < tolerance<T>.gradient);
    CHECK(difference(actual.dbias, expected.dbias) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("both normalisations and their gradients equal the reference for every width", T,
                   float, double) {
  for (const auto kind : {NormalizationKind::layer, NormalizationKind::rms})
    for (const Index width : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        cpu_equals_reference<T>({.kind = kind,
                                 .width = width,
                                 .bias = kind == NormalizationKind::layer,
                                 .layout = layout});
}

TEST_CASE_TEMPLATE("weight and bias may be left out, and dx may be added to", T, float, double) {
  for (const bool weight : {false, true})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        cpu_equals_reference<T>(
            {.rows = 50, .weight = weight, .bias = bias, .accumulate = accumulate});
}

TEST_CASE("no rows leave the parameter gradients as they were") {
  cpu_equals_reference<float>({.rows = 0});
}

TEST_CASE_TEMPLATE("normalising in place gives the same numbers", T, float, double) {
  auto x = random_tensor<T>("x", 3, 65);
  auto y = nan_tensor<T>(3, 65);
  Context<Cpu> ctx;
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = y});
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = x});
  CHECK(std::equal(y.data(), y.data() + y.size(), x.data()));
}
