// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/shift_convolution.hpp"
#include "support/operand_run.hpp"

namespace ssm::test {

struct ShiftConvolutionCase {
  Index batch = 1, length = 65, channels = 20, taps = 6;
  bool skip = true, initial = false, dfinal = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct ShiftConvolutionRun
    : OperandRun<ShiftConvolution<T, HostSpace>, ShiftConvolutionBackward<T, HostSpace>> {
  ShiftConvolutionRun(const ShiftConvolutionCase& test, Layout layout)
      : ShiftConvolutionRun::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'N', test.taps}}, layout,
            test.segments,
            left_out({{"skip", test.skip},
                      {"initial_state", test.initial},
                      {"dfinal_state", test.dfinal}})) {}
  template <class Ctx>
  void compute(Ctx& ctx, const ShiftConvolutionCase&) {
    shift_convolution(ctx, this->forward);
    shift_convolution_backward(ctx, this->backward());
  }
};

}  // namespace ssm::test
