// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/causal_convolution.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct CausalConvolutionCase {
  Index batch = 1, length = 65, channels = 5, terms = 65;
  bool skip = true, gates = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct CausalConvolutionRun {
  CausalConvolutionRun(const CausalConvolutionCase& test, Layout layout)
      : kernel(random_tensor<T>("kernel", test.channels, test.terms)),
        skip(random_tensor<T>("skip", test.channels)),
        x(sequence("x", test, layout)),
        gate_in(sequence("gate_in", test, layout)),
        gate_out(sequence("gate_out", test, layout)),
        dy(sequence("dy", test, layout)),
        y(place<T>(layout, test.batch, test.length, test.channels)),
        dx(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_in(place<T>(layout, test.batch, test.length, test.channels)),
        dgate_out(place<T>(layout, test.batch, test.length, test.channels)),
        dkernel(random_tensor<T>("dkernel", test.channels, test.terms)),
        dskip(random_tensor<T>("dskip", test.channels)) {}

  CausalConvolution<T, HostSpace> forward(const CausalConvolutionCase& test) {
    return {.kernel = kernel,
            .skip = test.skip ? skip.view() : View<T, 1>(),
            .x = x,
            .gate_in = test.gates ? gate_in.view : View<T, 3>(),
            .gate_out = test.gates ? gate_out.view : View<T, 3>(),
            .segments = test.segments,
            .y = y};
  }
  template <class Ctx>
  void compute(Ctx& ctx, const CausalConvolutionCase& test) {
    causal_convolution(ctx, forward(test));
    causal_convolution_backward(ctx, CausalConvolutionBackward<T, HostSpace>{
                                         .forward = forward(test),
                                         .dy = dy,
                                         .dx = dx,
                                         .dgate_in = test.gates ? dgate_in.view : View<T, 3>(),
                                         .dgate_out = test.gates ? dgate_out.view : View<T, 3>(),
                                         .dkernel = dkernel,
                                         .dskip = test.skip ? dskip.view() : View<T, 1>()});
  }
  static Placed<T, 3> sequence(const char* name, const CausalConvolutionCase& test, Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, test.length, test.channels));
  }

  DynamicTensor<T, 2> kernel;
  DynamicTensor<T, 1> skip;
  Placed<T, 3> x, gate_in, gate_out, dy, y, dx, dgate_in, dgate_out;
  DynamicTensor<T, 2> dkernel;
  DynamicTensor<T, 1> dskip;
};

template <class T>
void expect_equal(const CausalConvolutionCase& test, const CausalConvolutionRun<T>& actual,
                  const CausalConvolutionRun<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.dx.view, expected.dx.view) < tolerance<T>.gradient);
  if (test.gates) {
    CHECK(difference(actual.dgate_in.view, expected.dgate_in.view) < tolerance<T>.gradient);
    CHECK(difference(actual.dgate_out.view, expected.dgate_out.view) < tolerance<T>.gradient);
  }
  CHECK(difference(actual.dkernel, expected.dkernel) < tolerance<T>.gradient);
  CHECK(difference(actual.dskip, expected.dskip) < tolerance<T>.gradient);
}

}  // namespace ssm::test
