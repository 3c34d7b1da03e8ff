// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/short_convolution.hpp"

#include "compare.hpp"

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
struct Run {
  Run(const Case& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        weight(random_tensor<T>("weight", test.channels, test.taps)),
        bias(random_tensor<T>("bias", test.channels)),
        x(place_copy(layout, random_tensor<T>("x", test.batch, test.length, test.channels))),
        dy(place_copy(layout, random_tensor<T>("dy", test.batch, test.length, test.channels))),
        initial(random_tensor<T>("initial", sequences, test.channels, test.taps)),
        dfinal(random_tensor<T>("dfinal", sequences, test.channels, test.taps)),
        y(place<T>(layout, test.batch, test.length, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.channels)),
        final_state(nan_tensor<T>(sequences, test.channels, test.taps)),
        dinitial(nan_tensor<T>(sequences, test.channels, test.taps)),
        dweight(random_tensor<T>("dweight", test.channels, test.taps)),
        dbias(random_tensor<T>("dbias", test.channels)) {}

  ShortConvolution<T, HostSpace> forward(const Case& test) {
    return {.weight = weight,
            .bias = test.bias ? bias.view() : View<T, 1>(),
            .activation = test.activation,
            .x = x,
            .segments = test.segments,
            .initial_state = test.initial ? initial.view() : View<T, 3>(),
            .final_state = final_state,
            .y = y};
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    short_convolution(ctx, forward(test));
    short_convolution_backward(ctx, ShortConvolutionBackward<T, HostSpace>{
                                        .forward = forward(test),
                                        .dy = dy,
                                        .dfinal_state = test.dfinal ? dfinal.view() : View<T, 3>(),
                                        .dx = dx,
                                        .dinitial_state = dinitial,
                                        .dweight = dweight,
                                        .dbias = test.bias ? dbias.view() : View<T, 1>()});
  }

  Index sequences;
  DynamicTensor<T, 2> weight;
  DynamicTensor<T, 1> bias;
  Placed<T, 3> x, dy;
  DynamicTensor<T, 3> initial, dfinal;
  Placed<T, 3> y, dx;
  DynamicTensor<T, 3> final_state, dinitial;
  DynamicTensor<T, 2> dweight;
  DynamicTensor<T, 1> dbias;
};

template <class T>
void expect_equal(const Case&, const Run<T>& actual, const Run<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.final_state, expected.final_state) == 0);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dinitial, expected.dinitial) < tolerance<T>.gradient);
  CHECK(difference(actual.dweight, expected.dweight) < tolerance<T>.gradient);
  CHECK(difference(actual.dbias, expected.dbias) < tolerance<T>.gradient);
}

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
    auto forward = in_place.forward(test);
    forward.final_state = in_place.initial;
    short_convolution(ctx, forward);
    CHECK(difference(in_place.initial, apart.final_state) == 0);
    CHECK(difference(in_place.y.view, apart.y.view) == 0);
  }
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 5, .length = 300, .channels = 96};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    CHECK(std::equal(once.dweight.data(), once.dweight.data() + once.dweight.size(),
                     again.dweight.data()));
  });
}
