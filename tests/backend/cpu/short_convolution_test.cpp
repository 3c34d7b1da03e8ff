// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/short_convolution.hpp"

#include "compare.hpp"
#include "support/operand_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, taps = 4;
  ActivationKind activation = ActivationKind::silu;
  bool bias = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<ShortConvolution<T, HostSpace>, ShortConvolutionBackward<T, HostSpace>> {
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'W', test.taps}}, layout,
            test.segments,
            left_out({{"bias", test.bias},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}})) {
    this->forward.activation = test.activation;
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case&) {
    short_convolution(ctx, this->forward);
    short_convolution_backward(ctx, this->backward());
  }
};

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the filter and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 10, 11, 12, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      for (const bool initial : {false, true})
        for (const bool dfinal : {false, true})
          cpu_equals_reference<T>(
              {.batch = batch, .length = length, .initial = initial, .dfinal = dfinal});
}

TEST_CASE_TEMPLATE("any number of channels and taps, more than positions among them", T, float,
                   double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index taps : {1, 2, 3, 4, 5, 9})
      for (const Index length : {1, 3, 40})
        for (const bool states : {false, true})
          cpu_equals_reference<T>({.batch = 2,
                                   .length = length,
                                   .channels = channels,
                                   .taps = taps,
                                   .bias = states,
                                   .initial = states,
                                   .dfinal = states});
}

TEST_CASE_TEMPLATE("without a nonlinearity", T, float, double) {
  for (const Index length : {1, 40})
    cpu_equals_reference<T>({.length = length, .activation = ActivationKind::none});
}

TEST_CASE_TEMPLATE("more blocks of channels than take turns, and more sequences than slots", T,
                   float, double) {
  cpu_equals_reference<T>({.batch = 19, .length = 12, .channels = 1100, .initial = true});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 70})
      cpu_equals_reference<T>({.batch = 2, .length = length, .layout = layout});
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
  for (const Index length : {0, 1, 3, 9}) {
    const Case test{.length = length, .initial = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Cpu> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward;
    forward.final_state = in_place.writable(forward.initial_state);
    short_convolution(ctx, forward);
    CHECK(difference(forward.initial_state, apart.forward.final_state) == 0);
    CHECK(difference(forward.y, apart.forward.y) == 0);
  }
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
