// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/shift_convolution.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, channels = 20, taps = 6;
  bool skip = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run {
  Run(const Case& test, Layout layout)
      : sequences(sequence_count(test.batch, test.segments)),
        B(random_tensor<T>("B", test.channels, test.taps)),
        C(random_tensor<T>("C", test.channels, test.taps)),
        skip(random_tensor<T>("skip", test.channels)),
        x(place_copy(layout, random_tensor<T>("x", test.batch, test.length, test.channels))),
        dy(place_copy(layout, random_tensor<T>("dy", test.batch, test.length, test.channels))),
        initial(random_tensor<T>("initial", sequences, test.channels, test.taps)),
        dfinal(random_tensor<T>("dfinal", sequences, test.channels, test.taps)),
        y(place<T>(layout, test.batch, test.length, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.channels)),
        final_state(nan_tensor<T>(sequences, test.channels, test.taps)),
        dinitial(nan_tensor<T>(sequences, test.channels, test.taps)),
        dB(random_tensor<T>("dB", test.channels, test.taps)),
        dC(random_tensor<T>("dC", test.channels, test.taps)),
        dskip(random_tensor<T>("dskip", test.channels)) {}

  ShiftConvolution<T, HostSpace> forward(const Case& test) {
    return {.B = B,
            .C = C,
            .skip = test.skip ? skip.view() : View<T, 1>(),
            .x = x,
            .segments = test.segments,
            .initial_state = test.initial ? initial.view() : View<T, 3>(),
            .final_state = final_state,
            .y = y};
  }
  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    shift_convolution(ctx, forward(test));
    shift_convolution_backward(ctx, ShiftConvolutionBackward<T, HostSpace>{
                                        .forward = forward(test),
                                        .dy = dy,
                                        .dfinal_state = test.dfinal ? dfinal.view() : View<T, 3>(),
                                        .dx = dx,
                                        .dinitial_state = dinitial,
                                        .dB = dB,
                                        .dC = dC,
                                        .dskip = test.skip ? dskip.view() : View<T, 1>()});
  }

  Index sequences;
  DynamicTensor<T, 2> B, C;
  DynamicTensor<T, 1> skip;
  Placed<T, 3> x, dy;
  DynamicTensor<T, 3> initial, dfinal;
  Placed<T, 3> y, dx;
  DynamicTensor<T, 3> final_state, dinitial;
  DynamicTensor<T, 2> dB, dC;
  DynamicTensor<T, 1> dskip;
};

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.length);
  CAPTURE(test.channels);
  CAPTURE(test.taps);
  CAPTURE(test.initial);
  CAPTURE(test.dfinal);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  on_each_thread_count([&](auto& ctx) {
    Run<T> actual(test, test.layout);
    actual.compute(ctx, test);
    CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
    CHECK(difference(actual.final_state, expected.final_state) < tolerance<T>.value);
    CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
    CHECK(difference(actual.dinitial, expected.dinitial) < tolerance<T>.gradient);
    CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
    CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
    CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE(
    "the filter and its gradient equal the reference at every length, with and without states", T,
    float, double) {
  for (const Index length : {1, 2, 7, 63, 64, 65, 127, 128, 129, 1000})
    for (const Index batch : {1, 3})
      for (const bool initial : {false, true})
        for (const bool dfinal : {false, true})
          cpu_equals_reference<T>(
              {.batch = batch, .length = length, .initial = initial, .dfinal = dfinal});
}

TEST_CASE_TEMPLATE("any number of channels and taps, more than positions among them", T, float,
                   double) {
  for (const Index channels : {1, 15, 16, 17, 40})
    for (const Index taps : {1, 2, 3, 4, 8, 9, 64})
      for (const Index length : {1, 3, 40})
        for (const bool states : {false, true})
          cpu_equals_reference<T>({.batch = 2,
                                   .length = length,
                                   .channels = channels,
                                   .taps = taps,
                                   .skip = states,
                                   .initial = states,
                                   .dfinal = states});
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
  for (const Index length : {1, 3, 9}) {
    const Case test{.length = length, .initial = true};
    Run<T> apart(test, Layout::rows);
    Run<T> in_place(test, Layout::rows);
    Context<Cpu> ctx;
    apart.compute(ctx, test);
    auto forward = in_place.forward(test);
    forward.final_state = in_place.initial;
    shift_convolution(ctx, forward);
    CHECK(difference(in_place.initial, apart.final_state) == 0);
  }
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const Case test{.batch = 5, .length = 300, .channels = 96};
  on_each_thread_count([&](auto& ctx) {
    Run<float> once(test, Layout::rows);
    Run<float> again(test, Layout::rows);
    once.compute(ctx, test);
    again.compute(ctx, test);
    CHECK(std::equal(once.dB.data(), once.dB.data() + once.dB.size(), again.dB.data()));
  });
}
