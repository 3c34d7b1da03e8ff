// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/activation.hpp"

#include <limits>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

constexpr ActivationKind kinds[] = {ActivationKind::none,      ActivationKind::relu,
                                    ActivationKind::gelu_tanh, ActivationKind::gelu_erf,
                                    ActivationKind::silu,      ActivationKind::sigmoid,
                                    ActivationKind::tanh,      ActivationKind::softplus};

struct Case {
  ActivationKind kind = ActivationKind::silu;
  Index rows = 3, columns = 65;
  bool gated = true;
  double spread = 8;  // both tails of every function
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<Activation<T, HostSpace>, ActivationBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'M', test.rows}, {'D', test.columns}}, layout, {},
                        left_out({{"gate", test.gated}})) {
    this->forward.kind = test.kind;
    for_each_element([&](T& x) { x = scalar_cast<T>(test.spread * scalar_cast<double>(x)); },
                     this->writable(this->forward.x));
  }
  void evaluate(auto& ctx) { activation(ctx, this->forward); }
  void differentiate(auto& ctx) { activation_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasActivation<B, T>;
};

TEST_CASE("each activation has its published value at one") {
  constexpr double half_of_last_digit = 0.5e-9;
  CHECK(reference::activate(ActivationKind::none, 1) == 1);
  CHECK(reference::activate(ActivationKind::relu, 1) == 1);
  CHECK(reference::activate(ActivationKind::relu, -1) == 0);
  const auto at_one = [&](ActivationKind kind, double expected) {
    CHECK(std::abs(reference::activate(kind, 1) - expected) < half_of_last_digit);
  };
  at_one(ActivationKind::gelu_tanh, 0.841191991);
  at_one(ActivationKind::gelu_erf, 0.841344746);
  at_one(ActivationKind::silu, 0.731058579);
  at_one(ActivationKind::sigmoid, 0.731058579);
  at_one(ActivationKind::tanh, 0.761594156);
  at_one(ActivationKind::softplus, 1.313261688);
}

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

TEST_CASE("activations and slopes are exact far from zero") {
  for (const ActivationKind kind : kinds)
    for (const double x : {-1e4, -800.0, 800.0, 1e4}) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(x);
      CHECK(reference::activate(kind, x) == limit(kind, x));
      CHECK(reference::activation_slope(kind, x) == limit_slope(kind, x));
    }
}

TEST_CASE_TEMPLATE("large arguments saturate instead of overflowing", T, float, double) {
  for (const auto kind : kinds) {
    CAPTURE(static_cast<int>(kind));
    Run<T> call({.kind = kind, .rows = 1, .columns = 7, .gated = false}, Layout::rows);
    const auto& x = call.forward.x;
    call.set(x, {-1e30, -1000, -100, 0, 100, 1000, 1e30});
    call.set(call.gradient.dy, {1, 1, 1, 1, 1, 1, 1});
    on_other_backends<Run<T>>([&](auto& ctx) {
      compute(ctx, call);
      const auto &y = call.forward.y, &dx = call.gradient.dx;
      CHECK(y(0, 3) == doctest::Approx(reference::activate(kind, 0)));
      for (const Index i : {0, 1})
        CHECK(std::abs(y(0, i) - limit(kind, x(0, i))) <= std::numeric_limits<T>::min());
      for (const Index i : {5, 6}) CHECK(y(0, i) == limit(kind, x(0, i)));
      for (const Index i : {0, 1, 2, 4, 5, 6})
        CHECK(std::abs(dx(0, i) - limit_slope(kind, x(0, i))) < tolerance<T>.gradient);
    });
  }
}

TEST_CASE("gradients equal central differences with and without a gate") {
  for (const ActivationKind kind : kinds)
    for (const bool gated : {false, true})
      has_its_gradients<Run<double>>(
          {.kind = kind, .rows = 4, .columns = 5, .gated = gated, .spread = 1});
}

TEST_CASE("no activation with a gate is the elementwise product") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.kind = ActivationKind::none}, Layout::rows);
    call.evaluate(ctx);
    const auto& a = call.forward;
    for_each_index(a.y, [&](auto... i) { CHECK(a.y(i...) == a.x(i...) * a.gate(i...)); });
  });
}

TEST_CASE_TEMPLATE("results may overwrite their inputs, and a gradient dy", T, float, double) {
  on_each_backend<Run<T>>([](auto& ctx) {
    Run<T> apart({}, Layout::rows), over_x({}, Layout::rows), over_gate({}, Layout::rows);
    compute(ctx, apart);
    over_x.gradient.dx = over_x.writable(over_x.gradient.dy);
    over_x.differentiate(ctx);
    CHECK(difference(over_x.gradient.dx, apart.gradient.dx) == 0);
    CHECK(difference(over_x.gradient.dgate, apart.gradient.dgate) == 0);
    over_x.forward.y = over_x.writable(over_x.forward.x);
    over_x.evaluate(ctx);
    CHECK(difference(over_x.forward.y, apart.forward.y) == 0);
    over_gate.forward.y = over_gate.writable(over_gate.forward.gate);
    over_gate.evaluate(ctx);
    CHECK(difference(over_gate.forward.y, apart.forward.y) == 0);
  });
}

TEST_CASE("a gate without a place for its gradient is refused") {
  Context<Reference> ctx;
  Run<double> call({}, Layout::rows);
  call.gradient.dgate = {};
  CHECK_THROWS_WITH_AS(call.differentiate(ctx), "activation_backward: dgate is missing",
                       ShapeError);
}

TEST_CASE_TEMPLATE("every activation and its gradient equal the reference, gated or not", T, float,
                   double) {
  for (const auto kind : kinds)
    for (const Index columns : {1, 2, 63, 64, 65, 1000})
      for (const Layout layout : all_layouts)
        for (const bool gated : {false, true})
          equals_reference<Run<T>>(
              {.kind = kind, .columns = columns, .gated = gated, .layout = layout});
}

TEST_CASE_TEMPLATE("every activation and its gradient in half types", T, BFloat16, Float16) {
  for (const auto kind : kinds)
    for (const Index columns : {1, 64, 65})
      for (const bool gated : {false, true})
        equals_reference<Run<T>>({.kind = kind, .rows = 40, .columns = columns, .gated = gated});
}

TEST_CASE_TEMPLATE("any number of rows, enough to share between threads among them", T, float,
                   double, BFloat16, Float16) {
  for (const Index rows : {0, 1, 300})
    for (const bool gated : {false, true})
      equals_reference<Run<T>>({.kind = ActivationKind::gelu_tanh, .rows = rows, .gated = gated});
}

}  // namespace
}  // namespace ssm::test
