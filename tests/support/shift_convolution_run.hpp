// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/shift_convolution.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct ShiftConvolutionCase {
  Index batch = 1, length = 65, channels = 20, taps = 6;
  bool skip = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct ShiftConvolutionRun {
  ShiftConvolutionRun(const ShiftConvolutionCase& test, Layout layout)
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

  ShiftConvolution<T, HostSpace> forward(const ShiftConvolutionCase& test) {
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
  void compute(Ctx& ctx, const ShiftConvolutionCase& test) {
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
void expect_equal(const ShiftConvolutionCase&, const ShiftConvolutionRun<T>& actual,
                  const ShiftConvolutionRun<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.final_state, expected.final_state) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dinitial, expected.dinitial) < tolerance<T>.gradient);
  CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
  CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
  CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
}

}  // namespace ssm::test
