// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_operation.hpp"
#include "ssm/op/causal_convolution.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_causal_convolution(Trial& trial) {
  OperationCheck<B, CausalConvolution<T, HostSpace>, CausalConvolutionBackward<T, HostSpace>>(trial)
      .run([](auto& ctx, const auto& a) { causal_convolution(ctx, a); },
           [](auto& ctx, const auto& g) { causal_convolution_backward(ctx, g); });
}

}  // namespace ssm::conformance
