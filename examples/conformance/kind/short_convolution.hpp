// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_operation.hpp"
#include "ssm/op/short_convolution.hpp"

namespace ssm::conformance {

inline ActivationKind activation_of(const Trial& trial) {
  const std::string name = trial.text("activation");
  if (name == "none") return ActivationKind::none;
  if (name == "silu") return ActivationKind::silu;
  throw CaseError("activation '" + name + "' is neither none nor silu");
}

template <class B, class T>
void check_short_convolution(Trial& trial) {
  OperationCheck<B, ShortConvolution<T, HostSpace>, ShortConvolutionBackward<T, HostSpace>> check(
      trial, {{"weight", "conv1d.weight"},
              {"bias", "conv1d.bias"},
              {"initial_state", "conv"},
              {"final_state", "conv"}});
  check.forward.activation = activation_of(trial);
  check.run([](auto& ctx, const auto& a) { short_convolution(ctx, a); },
            [](auto& ctx, const auto& g) { short_convolution_backward(ctx, g); });
}

}  // namespace ssm::conformance
