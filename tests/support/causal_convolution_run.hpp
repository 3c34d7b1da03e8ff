// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/causal_convolution.hpp"
#include "support/operand_run.hpp"

namespace ssm::test {

struct CausalConvolutionCase {
  Index batch = 1, length = 65, channels = 5, terms = 65;
  bool skip = true, gates = false;
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct CausalConvolutionRun
    : OperandRun<CausalConvolution<T, HostSpace>, CausalConvolutionBackward<T, HostSpace>> {
  CausalConvolutionRun(const CausalConvolutionCase& test, Layout layout)
      : CausalConvolutionRun::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'D', test.channels}, {'K', test.terms}},
            layout, test.segments,
            left_out({{"skip", test.skip}, {"gate_in", test.gates}, {"gate_out", test.gates}})) {}
  template <class Ctx>
  void compute(Ctx& ctx, const CausalConvolutionCase&) {
    causal_convolution(ctx, this->forward);
    causal_convolution_backward(ctx, this->backward());
  }
};

}  // namespace ssm::test
