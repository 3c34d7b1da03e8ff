// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/selective_scan.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, states = 5;
  bool softplus = true;
  bool optional = true;           // skip, bias, gate, and the step that comes out
  bool gate = true, step = true;  // those alone
  bool initial = false, dfinal = false, accumulate = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<SelectiveScan<T, HostSpace>, SelectiveScanBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'N', test.states}},
            layout, test.segments,
            left_out({{"skip", test.optional},
                      {"dt_bias", test.optional},
                      {"gate", test.optional && test.gate},
                      {"dt_used", test.optional && test.step},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}}),
            test.accumulate ? InputGradients::added_to : InputGradients::overwritten) {
    this->forward.dt_softplus = test.softplus;
    this->gradient.accumulate = test.accumulate;
    for_each_element([](Wide<T>& x) { x = -std::exp(x); }, this->writable(this->forward.A));
    // Negative steps would grow without bound, and the bias may make a small one so.
    if (!test.softplus)
      for_each_element(
          [](T& step) { step = static_cast<T>(1 + std::abs(static_cast<Wide<T>>(step))); },
          this->writable(this->forward.dt));
  }
  void evaluate(auto& ctx) { selective_scan(ctx, this->forward); }
  void differentiate(auto& ctx) { selective_scan_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasSelectiveScan<B, T>;
};

/// With everything that a call may have, and few channels.
constexpr Case full(Case test) {
  test.channels = 2;
  test.states = 3;
  test.initial = test.dfinal = true;
  return test;
}

/// sin(s + 0.7·(k + 1) + 1.1·(t + 1)) for position t of channel or state k.
void fill_sines(const View<const double, 3>& operand, double s) {
  const auto tensor = Run<double>::writable(operand);
  for_each_index(tensor, [&](Index, Index t, Index k) {
    tensor(0, t, k) =
        std::sin(s + 0.7 * static_cast<double>(k + 1) + 1.1 * static_cast<double>(t + 1));
  });
}

TEST_CASE("outputs and state are the published numbers") {
  Run<double> call({.length = 5, .channels = 2, .states = 3}, Layout::rows);
  auto& a = call.forward;
  fill_sines(a.u, 0.2);
  fill_sines(a.dt, 0.9);
  fill_sines(a.B, 1.3);
  fill_sines(a.C, 2.1);
  fill_sines(a.gate, 3.3);
  call.set(a.dt_bias, {-1, -2});
  call.set(a.skip, {1, 0.5});
  call.set(a.A, {-1, -2, -3, -1, -2, -3});
  constexpr double half_of_last_digit = 0.5e-8 * 1.01;
  const std::array first{-0.38773304, -0.00423335, -0.67667819, -0.73481673, -0.00735891};
  const std::array second{-0.04895117, -0.12538963, -0.38432781, -0.03058811, -0.15326334};
  const std::array states{0.0929289, -0.00705317, -0.02209776, 0.26006823, 0.20349661, 0.08484878};
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    for (Index t = 0; t < 5; ++t) {
      CHECK(std::abs(a.y(0, t, 0) - first[static_cast<std::size_t>(t)]) < half_of_last_digit);
      CHECK(std::abs(a.y(0, t, 1) - second[static_cast<std::size_t>(t)]) < half_of_last_digit);
    }
    for (Index i = 0; i < 6; ++i)
      CHECK(std::abs(a.final_state(0, i / 3, i % 3) - states[static_cast<std::size_t>(i)]) <
            half_of_last_digit);
  });
}

TEST_CASE("the step is a softplus, and the number itself where none is asked for") {
  Run<double> call(full({.batch = 3, .length = 7}), Layout::rows);
  auto& a = call.forward;
  const double raw = a.dt(1, 2, 1) + a.dt_bias(1);
  on_each_backend<Run<double>>([&](auto& ctx) {
    for (const bool softplus : {true, false}) {
      a.dt_softplus = softplus;
      call.evaluate(ctx);
      if (softplus)
        CHECK(a.dt_used(1, 2, 1) == doctest::Approx(std::log(1 + std::exp(raw))));
      else
        CHECK(a.dt_used(1, 2, 1) == raw);
    }
  });
}

TEST_CASE("a large step is finite and equals its argument") {
  Run<double> call(full({.length = 1}), Layout::rows);
  call.set(call.forward.dt, {1000, -1000});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(call.forward.dt_used(0, 0, 0) == 1000 + call.forward.dt_bias(0));
    // An exponential may stop at the smallest normal number.
    CHECK(call.forward.dt_used(0, 0, 1) >= 0);
    CHECK(call.forward.dt_used(0, 0, 1) <= std::numeric_limits<double>::min());
  });
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  for (const Index length : {1, 2, 63, 64, 65, 1000})
    carries_its_state<Run<double>>(full({.batch = 3, .length = length}), {0, length / 3, length});
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  packs_sequences<Run<double>>(full({.length = 20, .segments = offsets}));
  for (const Index length : {0, 1, 7, 9}) {
    updates_its_state_in_place<Run<double>>(full({.batch = 3, .length = length}));
    updates_its_state_in_place<Run<float>>({.length = length, .initial = true});
  }
}

TEST_CASE("single precision agrees with double precision") {
  rounds_to_single_precision<Run>(full({.batch = 3, .length = 64}));
}

TEST_CASE("gradients equal central differences") {
  for (const Index length : {0, 1, 2, 7})
    for (const bool softplus : {false, true})
      has_its_gradients<Run<double>>(full({.batch = 3, .length = length, .softplus = softplus}));
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  has_its_gradients<Run<double>>(full({.length = 10, .segments = offsets}));
}

TEST_CASE("input gradients are added to on request") {
  NanContext<Reference> ctx;
  Run<double> call(full({.batch = 3, .length = 7}), Layout::rows);
  compute(ctx, call);
  const auto before = clone(call.gradient.dB);
  const auto state_before = clone(call.gradient.dinitial_state);
  call.gradient.accumulate = true;
  call.differentiate(ctx);
  CHECK(call.gradient.dB(1, 2, 0) == 2 * before(1, 2, 0));
  CHECK(call.gradient.dinitial_state(1, 1, 0) == 2 * state_before(1, 1, 0));
}

TEST_CASE("everything optional may be left out") {
  does_without_optional_operands<Run<double>>(full({.length = 7}));
}

TEST_CASE("operands that do not fit are named") {
  Context<Reference> ctx;
  Run<double> call(full({.batch = 3, .length = 7}), Layout::rows);
  auto operands = call.forward;
  const auto wide = zero_tensor(3, 7, 4);
  operands.C = wide;
  CHECK_THROWS_WITH_AS(selective_scan(ctx, operands),
                       "selective_scan: C must be [3, 7, 3], got [3, 7, 4]", ShapeError);
  operands = call.forward;
  operands.y = {};
  CHECK_THROWS_WITH_AS(selective_scan(ctx, operands), "selective_scan: y is missing", ShapeError);
  auto gradients = call.backward();
  gradients.forward.gate = {};
  CHECK_THROWS_WITH_AS(selective_scan_backward(ctx, gradients),
                       "selective_scan_backward: dgate is given, but the gate is not", ShapeError);
}

TEST_CASE_TEMPLATE(
    "the scan and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        equals_reference<Run<T>>(
            {.batch = batch, .length = length, .initial = states, .dfinal = states});
}

TEST_CASE_TEMPLATE("any number of channels and states", T, float, double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index states : {1, 2, 4, 7, 16, 33})
      for (const Index length : {1, 40})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = length,
                                  .channels = channels,
                                  .states = states,
                                  .initial = true,
                                  .dfinal = true});
}

TEST_CASE_TEMPLATE("operands left out, and gradients added to", T, float, double) {
  for (const Index length : {1, 40})
    for (const bool softplus : {false, true})
      for (const bool optional : {false, true})
        for (const bool accumulate : {false, true})
          equals_reference<Run<T>>({.length = length,
                                    .softplus = softplus,
                                    .optional = optional,
                                    .initial = true,
                                    .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("more blocks of channels than take turns, and more sequences than slots", T,
                   float, double) {
  equals_reference<Run<T>>(
      {.batch = 11, .length = 5, .channels = 600, .states = 4, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      equals_reference<Run<T>>({.batch = 2, .length = length, .initial = true, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool states : {false, true})
    equals_reference<Run<T>>(
        {.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  equals_reference<Run<T>>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  equals_reference<Run<T>>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("large steps neither overflow nor hide what is not a number", T, float, double) {
  const Case test{.batch = 2, .length = 3, .channels = 17, .initial = true};
  const auto with_large_steps = [&] {
    Run<T> run(test, Layout::rows);
    const auto dt = run.writable(run.forward.dt);
    dt(0, 1, 2) = 1000;
    dt(1, 1, 16) = -1000;
    return run;
  };
  Context<Reference> reference;
  Run<T> expected = with_large_steps();
  compute(reference, expected);
  on_other_backends<Run<T>>([&](auto& ctx) {
    Run<T> actual = with_large_steps();
    compute(ctx, actual);
    expect_equal(actual, expected);
    actual.writable(actual.forward.dt)(0, 1, 2) = std::numeric_limits<T>::quiet_NaN();
    compute(ctx, actual);
    CHECK(std::isnan(actual.forward.y(0, 2, 2)));
    CHECK(std::isfinite(actual.forward.y(0, 2, 3)));
  });
}

TEST_CASE_TEMPLATE("walks of every width, with tiles and chunks that are full and that are not", T,
                   float, BFloat16, Float16) {
  for (const Index states : {1, 15, 16, 17, 32, 33, 64, 65})
    for (const Index channels : {31, 32, 33, 66})
      for (const Index length : {1, 33, 130})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = length,
                                  .channels = channels,
                                  .states = states,
                                  .initial = true,
                                  .dfinal = true},
                                 only<Device>);
}

TEST_CASE_TEMPLATE("walks without the step that comes out", T, float, BFloat16, Float16) {
  for (const Index channels : {8, 40, 41})
    for (const Index states : {8, 16, 24, 48})
      for (const Index length : {1, 33, 130})
        equals_reference<Run<T>>({.batch = 2,
                                  .length = length,
                                  .channels = channels,
                                  .states = states,
                                  .step = false,
                                  .initial = true,
                                  .dfinal = true},
                                 only<Device>);
}

TEST_CASE_TEMPLATE("walks without a gate, of what others read too", T, float, BFloat16, Float16) {
  for (const Index channels : {8, 40, 41})
    for (const Index states : {8, 16, 24, 48})
      for (const Index length : {1, 33, 130})
        for (const bool accumulate : {false, true})
          equals_reference<Run<T>>({.batch = 2,
                                    .length = length,
                                    .channels = channels,
                                    .states = states,
                                    .gate = false,
                                    .step = accumulate || length == 33,
                                    .initial = true,
                                    .dfinal = true,
                                    .accumulate = accumulate},
                                   only<Device>);
}

TEST_CASE_TEMPLATE("half types of any layout, packed, with operands left out", T, BFloat16,
                   Float16) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool optional : {false, true}) {
    for (const Layout layout : all_layouts)
      equals_reference<Run<T>>({.batch = 2,
                                .length = 70,
                                .softplus = optional,
                                .optional = optional,
                                .accumulate = optional,
                                .layout = layout},
                               only<Device>);
    equals_reference<Run<T>>({.length = 110,
                              .optional = optional,
                              .initial = optional,
                              .dfinal = optional,
                              .segments = offsets},
                             only<Device>);
  }
}

TEST_CASE("the same thread count gives the same gradient bits") {
  repeats_its_bits<Run<float>>({.batch = 5, .length = 300, .channels = 96});
}

}  // namespace
}  // namespace ssm::test
