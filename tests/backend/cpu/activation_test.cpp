// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/activation.hpp"

#include "compare.hpp"

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

/// Between −8 and 8: both tails of every function.
template <class T>
auto wide_tensor(std::string_view name, Index rows, Index columns) {
  auto x = random_tensor<T>(name, rows, columns);
  for_each_index(x, [&](Index m, Index d) { x(m, d) *= T{8}; });
  return x;
}

template <class T>
void cpu_equals_reference(ActivationKind kind, Index rows, Index columns, Layout layout,
                          bool gated) {
  CAPTURE(static_cast<int>(kind));
  CAPTURE(columns);
  const auto x = wide_tensor<T>("x", rows, columns);
  const auto gate = random_tensor<T>("gate", rows, columns);
  const auto dy = random_tensor<T>("dy", rows, columns);
  const auto run = [&](auto& ctx, View<const T, 2> x_view, View<const T, 2> gate_view, auto& y,
                       auto& dx, auto& dgate) {
    const Activation<T, HostSpace> forward{.kind = kind, .x = x_view, .gate = gate_view, .y = y};
    activation(ctx, forward);
    activation_backward(
        ctx, ActivationBackward<T, HostSpace>{.forward = forward,
                                              .dy = dy,
                                              .dx = dx,
                                              .dgate = gated ? View<T, 2>(dgate) : View<T, 2>()});
  };
  Context<Reference> reference;
  auto y = nan_tensor<T>(rows, columns);
  auto dx = nan_tensor<T>(rows, columns);
  auto dgate = nan_tensor<T>(rows, columns);
  run(reference, x, gated ? gate.view() : View<const T, 2>(), y, dx, dgate);

  const auto placed_x = place_copy(layout, x);
  const auto placed_gate = place_copy(layout, gate);
  on_each_thread_count([&](auto& ctx) {
    const auto cpu_y = place<T>(layout, rows, columns);
    const auto cpu_dx = place<T>(layout, rows, columns);
    const auto cpu_dgate = place<T>(Layout::rows, rows, columns);
    run(ctx, placed_x, gated ? placed_gate.view : View<const T, 2>(), cpu_y, cpu_dx, cpu_dgate);
    CHECK(difference(cpu_y.view, y) < tolerance<T>.value);
    CHECK(difference(cpu_dx.view, dx) < tolerance<T>.gradient);
    if (gated) CHECK(difference(cpu_dgate.view, dgate) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("every activation and its gradient equal the reference, gated or not", T, float,
                   double) {
  for (const auto kind : kinds)
    for (const Index columns : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        for (const bool gated : {false, true})
          cpu_equals_reference<T>(kind, 3, columns, layout, gated);
}

TEST_CASE("enough rows to share between threads give the reference's numbers") {
  cpu_equals_reference<float>(ActivationKind::gelu_tanh, 300, 65, Layout::rows, true);
}

TEST_CASE_TEMPLATE("large arguments saturate instead of overflowing", T, float, double) {
  for (const auto kind : kinds) {
    CAPTURE(static_cast<int>(kind));
    const auto x = tensor_of<T>({-1000, -100, 0, 100, 1000}).clone();
    auto y = nan_tensor<T>(1, 5);
    Context<Cpu> ctx;
    activation(ctx, Activation<T, HostSpace>{.kind = kind, .x = x.reshape(1, 5), .y = y});
    CHECK(std::abs(y(0, 0) - limit(kind, T{-1000})) <= std::numeric_limits<T>::min());
    CHECK(y(0, 2) == doctest::Approx(reference::activate(kind, 0)));
    CHECK(y(0, 4) == limit(kind, T{1000}));
  }
}

TEST_CASE_TEMPLATE("an activation may overwrite its input, and its gradient dy", T, float, double) {
  const auto x = random_tensor<T>("x", 3, 65);
  const auto dy = random_tensor<T>("dy", 3, 65);
  Context<Cpu> ctx;
  const Activation<T, HostSpace> apart{.kind = ActivationKind::silu, .x = x};
  auto y = nan_tensor<T>(3, 65);
  auto dx = nan_tensor<T>(3, 65);
  auto forward = apart;
  forward.y = y;
  activation(ctx, forward);
  activation_backward(ctx,
                      ActivationBackward<T, HostSpace>{.forward = forward, .dy = dy, .dx = dx});

  auto gradient = dy.clone();
  activation_backward(
      ctx, ActivationBackward<T, HostSpace>{.forward = forward, .dy = gradient, .dx = gradient});
  auto in_place = x.clone();
  activation(ctx,
             Activation<T, HostSpace>{.kind = ActivationKind::silu, .x = in_place, .y = in_place});
  CHECK(std::equal(y.data(), y.data() + y.size(), in_place.data()));
  CHECK(std::equal(dx.data(), dx.data() + dx.size(), gradient.data()));
}
