// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/normalization.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  NormalizationKind kind = NormalizationKind::layer;
  Index rows = 3, width = 65;
  bool weight = true, bias = true, eps_scale = false, accumulate = false;
  Layout layout = Layout::rows;
};

template <class T>
struct Results {
  Results(const Case& test, Layout layout)
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
void device_equals_reference(const Case& test) {
  CAPTURE(static_cast<int>(test.kind));
  CAPTURE(test.rows);
  CAPTURE(test.width);
  const auto x = random_tensor<T>("x", test.rows, test.width);
  const auto weight = random_tensor<T>("weight", test.width);
  const auto bias = random_tensor<T>("bias", test.width);
  const auto dy = random_tensor<T>("dy", test.rows, test.width);
  auto eps_scale = random_tensor<T>("eps_scale", test.rows);
  for_each_index(eps_scale, [&](Index m) { eps_scale(m) = T{3} + T{2} * eps_scale(m); });
  const auto run = [&](auto& ctx, Layout layout) {
    Results<T> out(test, layout);
    const auto placed_x = place_copy(layout, x);
    const auto placed_dy = place_copy(layout, dy);
    const Normalization<T, HostSpace> forward{
        .kind = test.kind,
        .eps = 1e-3,
        .x = placed_x,
        .weight = test.weight ? weight.view() : View<const T, 1>(),
        .bias = test.bias ? bias.view() : View<const T, 1>(),
        .eps_scale = test.eps_scale ? eps_scale.view() : View<const T, 1>(),
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
    return out;
  };
  Context<Reference> reference;
  DeviceContext<cuda::primitive::Normalization> device;
  const auto expected = run(reference, Layout::rows);
  const auto actual = run(device, test.layout);
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.scale, expected.scale) < tolerance<T>.value);
  if (test.kind == NormalizationKind::layer)
    CHECK(difference(actual.mean, expected.mean) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dweight, expected.dweight) < tolerance<T>.gradient);
  CHECK(difference(actual.dbias, expected.dbias) < tolerance<T>.gradient);
}

constexpr std::array kinds{NormalizationKind::layer, NormalizationKind::rms};

}  // namespace

TEST_CASE_TEMPLATE("both normalisations and their gradients equal the reference for every width", T,
                   float, double) {
  for (const auto kind : kinds)
    for (const Index width : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        for (const bool eps_scale : {false, true})
          device_equals_reference<T>({.kind = kind,
                                      .width = width,
                                      .bias = kind == NormalizationKind::layer,
                                      .eps_scale = eps_scale,
                                      .layout = layout});
}

TEST_CASE_TEMPLATE("weight and bias may be left out, and dx may be added to", T, float, double) {
  for (const bool weight : {false, true})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        device_equals_reference<T>(
            {.rows = 50, .weight = weight, .bias = bias, .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("parameter gradients are sums over any number of rows", T, float, double) {
  for (const auto kind : kinds)
    for (const Index rows : {0, 1, 31, 32, 64, 100, 1001})
      device_equals_reference<T>({.kind = kind, .rows = rows, .width = 7});
}

TEST_CASE_TEMPLATE("normalising in place gives the same numbers", T, float, double) {
  auto x = random_tensor<T>("x", 3, 65);
  auto y = nan_tensor<T>(3, 65);
  DeviceContext<cuda::primitive::Normalization> ctx;
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = y});
  normalization(ctx, Normalization<T, HostSpace>{.x = x, .y = x});
  CHECK(difference(x, y) == 0);
}
