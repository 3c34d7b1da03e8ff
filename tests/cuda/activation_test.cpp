// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/activation.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

constexpr std::array kinds{ActivationKind::none,      ActivationKind::relu,
                           ActivationKind::gelu_tanh, ActivationKind::gelu_erf,
                           ActivationKind::silu,      ActivationKind::sigmoid,
                           ActivationKind::tanh,      ActivationKind::softplus};

/// What every function but `none` comes to far from zero: a constant, or its argument.
template <class T>
T limit(ActivationKind kind, T x) {
  if (kind == ActivationKind::none) return x;
  if (kind == ActivationKind::tanh) return x < 0 ? T{-1} : T{1};
  if (kind == ActivationKind::sigmoid) return x < 0 ? T{0} : T{1};
  return x < 0 ? T{0} : x;
}
template <class T>
T limit_slope(ActivationKind kind, T x) {
  if (kind == ActivationKind::tanh || kind == ActivationKind::sigmoid) return T{0};
  return kind == ActivationKind::none || x > 0 ? T{1} : T{0};
}

template <class T>
struct Results {
  Results(Layout layout, Index rows, Index columns)
      : y(place<T>(layout, rows, columns)),
        dx(place<T>(layout, rows, columns)),
        dgate(place<T>(Layout::rows, rows, columns)) {}
  Placed<T, 2> y, dx, dgate;
};

template <class T>
void device_equals_reference(ActivationKind kind, Index rows, Index columns, Layout layout,
                             bool gated) {
  CAPTURE(static_cast<int>(kind));
  CAPTURE(rows);
  CAPTURE(columns);
  auto x = random_tensor<T>("x", rows, columns);
  for_each_index(x, [&](Index m, Index d) {  // both tails
    x(m, d) = static_cast<T>(8 * static_cast<Wide<T>>(x(m, d)));
  });
  const auto gate = random_tensor<T>("gate", rows, columns);
  const auto dy = random_tensor<T>("dy", rows, columns);
  const auto run = [&](auto& ctx, Layout where) {
    Results<T> out(where, rows, columns);
    const auto placed_x = place_copy(where, x);
    const auto placed_gate = place_copy(where, gate);
    const Activation<T, HostSpace> forward{.kind = kind,
                                           .x = placed_x,
                                           .gate = gated ? placed_gate.view : View<const T, 2>(),
                                           .y = out.y};
    activation(ctx, forward);
    activation_backward(
        ctx, ActivationBackward<T, HostSpace>{.forward = forward,
                                              .dy = dy,
                                              .dx = out.dx,
                                              .dgate = gated ? out.dgate.view : View<T, 2>()});
    return out;
  };
  Context<Reference> reference;
  DeviceContext<cuda::primitive::Activation> device;
  const auto expected = run(reference, Layout::rows);
  const auto actual = run(device, layout);
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  if (gated) CHECK(difference(actual.dgate.view, expected.dgate.view) < tolerance<T>.gradient);
}

}  // namespace

TEST_CASE_TEMPLATE("every activation and its gradient equal the reference, gated or not", T, float,
                   double, BFloat16, Float16) {
  for (const auto kind : kinds)
    for (const Index rows : {0, 1, 3})
      for (const Index columns : {1, 2, 65, 1000})
        for (const Layout layout : all_layouts)
          for (const bool gated : {false, true})
            device_equals_reference<T>(kind, rows, columns, layout, gated);
}

TEST_CASE_TEMPLATE("large arguments saturate instead of overflowing", T, float, double) {
  for (const auto kind : kinds) {
    CAPTURE(static_cast<int>(kind));
    const auto x = tensor_of<T>({-1e30, -1000, -100, 0, 100, 1000, 1e30});
    const auto dy = tensor_of<T>({1, 1, 1, 1, 1, 1, 1});
    auto y = nan_tensor<T>(1, 7);
    auto dx = nan_tensor<T>(1, 7);
    DeviceContext<cuda::primitive::Activation> ctx;
    const Activation<T, HostSpace> forward{.kind = kind, .x = x.reshape(1, 7), .y = y};
    activation(ctx, forward);
    activation_backward(ctx, ActivationBackward<T, HostSpace>{
                                 .forward = forward, .dy = dy.reshape(1, 7), .dx = dx});
    CHECK(y(0, 3) == doctest::Approx(reference::activate(kind, 0)));
    for (const Index i : {0, 1, 5, 6}) CHECK(y(0, i) == limit(kind, x(i)));
    for (const Index i : {0, 1, 2, 4, 5, 6})
      CHECK(std::abs(dx(0, i) - limit_slope(kind, x(i))) < tolerance<T>.gradient);
  }
}

TEST_CASE_TEMPLATE("an activation may overwrite its input or its gate, and its gradient dy", T,
                   float, double) {
  const auto x = random_tensor<T>("x", 3, 65);
  const auto gate = random_tensor<T>("gate", 3, 65);
  const auto dy = random_tensor<T>("dy", 3, 65);
  DeviceContext<cuda::primitive::Activation> ctx;
  auto y = nan_tensor<T>(3, 65);
  auto dx = nan_tensor<T>(3, 65);
  auto dgate = nan_tensor<T>(3, 65);
  const Activation<T, HostSpace> forward{
      .kind = ActivationKind::silu, .x = x, .gate = gate, .y = y};
  activation(ctx, forward);
  activation_backward(ctx, ActivationBackward<T, HostSpace>{
                               .forward = forward, .dy = dy, .dx = dx, .dgate = dgate});

  auto gradient = dy.clone();
  activation_backward(ctx, ActivationBackward<T, HostSpace>{
                               .forward = forward, .dy = gradient, .dx = gradient, .dgate = dgate});
  CHECK(difference(gradient, dx) == 0);
  auto over_x = x.clone();
  auto over_gate = gate.clone();
  activation(ctx, Activation<T, HostSpace>{
                      .kind = ActivationKind::silu, .x = over_x, .gate = gate, .y = over_x});
  activation(ctx, Activation<T, HostSpace>{
                      .kind = ActivationKind::silu, .x = x, .gate = over_gate, .y = over_gate});
  CHECK(difference(over_x, y) == 0);
  CHECK(difference(over_gate, y) == 0);
}
