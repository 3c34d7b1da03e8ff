// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/selective_scan.hpp"

#include <cmath>

#include "compare.hpp"
#include "ssm/core/elementwise.hpp"
#include "support/operand_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, states = 5;
  bool softplus = true;
  bool optional = true;  // skip, bias, gate, and the step that comes out
  bool initial = false, dfinal = false, accumulate = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<SelectiveScan<T, HostSpace>, SelectiveScanBackward<T, HostSpace>> {
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'N', test.states}},
            layout, test.segments,
            left_out({{"skip", test.optional},
                      {"dt_bias", test.optional},
                      {"gate", test.optional},
                      {"dt_used", test.optional},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}}),
            test.accumulate ? InputGradients::added_to : InputGradients::overwritten) {
    this->forward.dt_softplus = test.softplus;
    this->gradient.accumulate = test.accumulate;
    const auto A = this->writable(this->forward.A);
    for_each_element([](T& x) { x = -std::exp(x); }, A);
    // Negative steps would grow without bound, and the bias may make a small one so.
    if (!test.softplus)
      for_each_element([](T& step) { step = T(1) + std::abs(step); },
                       this->writable(this->forward.dt));
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case&) {
    selective_scan(ctx, this->forward);
    selective_scan_backward(ctx, this->backward());
  }
};

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the scan and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        cpu_equals_reference<T>(
            {.batch = batch, .length = length, .initial = states, .dfinal = states});
}

TEST_CASE_TEMPLATE("any number of channels and states", T, float, double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index states : {1, 2, 4, 7, 16, 33})
      for (const Index length : {1, 40})
        cpu_equals_reference<T>({.batch = 2,
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
          cpu_equals_reference<T>({.length = length,
                                   .softplus = softplus,
                                   .optional = optional,
                                   .initial = true,
                                   .accumulate = accumulate});
}

TEST_CASE_TEMPLATE("more blocks of channels than take turns, and more sequences than slots", T,
                   float, double) {
  cpu_equals_reference<T>(
      {.batch = 11, .length = 5, .channels = 600, .states = 4, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      cpu_equals_reference<T>({.batch = 2, .length = length, .initial = true, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  for (const bool states : {false, true})
    cpu_equals_reference<T>(
        {.length = 110, .initial = states, .dfinal = states, .segments = offsets});
}

TEST_CASE_TEMPLATE("no positions pass the state through, and no sequences are legal", T, float,
                   double) {
  cpu_equals_reference<T>({.batch = 2, .length = 0, .initial = true, .dfinal = true});
  cpu_equals_reference<T>({.batch = 0, .length = 5, .initial = true, .dfinal = true});
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {0, 1, 9}) {
    const Case test{.length = length, .initial = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Cpu> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward;
    forward.final_state = in_place.writable(forward.initial_state);
    selective_scan(ctx, forward);
    CHECK(difference(forward.initial_state, apart.forward.final_state) == 0);
    CHECK(difference(forward.y, apart.forward.y) == 0);
  }
}

TEST_CASE_TEMPLATE("large steps neither overflow nor hide what is not a number", T, float, double) {
  const Case test{.batch = 2, .length = 3, .channels = 17, .initial = true};
  Context<Reference> reference;
  Context<Cpu> ctx;
  Run<T> expected(test, Layout::rows);
  Run<T> actual(test, Layout::rows);
  for (Run<T>* run : {&expected, &actual}) {
    const auto dt = run->writable(run->forward.dt);
    dt(0, 1, 2) = 1000;
    dt(1, 1, 16) = -1000;
  }
  expected.compute(reference, test);
  actual.compute(ctx, test);
  expect_equal(actual, expected);
  actual.writable(actual.forward.dt)(0, 1, 2) = std::numeric_limits<T>::quiet_NaN();
  actual.compute(ctx, test);
  CHECK(std::isnan(actual.forward.y(0, 2, 2)));
  CHECK(std::isfinite(actual.forward.y(0, 2, 3)));
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 5, .length = 300, .channels = 96};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    expect_same(again, once);
  });
}
