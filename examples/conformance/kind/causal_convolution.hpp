// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number
#include "ssm/op/causal_convolution.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_causal_convolution(Trial& trial) {
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  const auto x = trial.read<T, 3>("input/x");
  const auto kernel = trial.read<T, 2>("param/kernel");
  const auto skip = trial.read_if_given<T, 1>("param/skip");
  const auto gate_in = trial.read_if_given<T, 3>("input/gate_in");
  const auto gate_out = trial.read_if_given<T, 3>("input/gate_out");
  const auto segments = trial.segments();
  auto y = filled_like(x, not_a_number);
  const CausalConvolution<T, HostSpace> forward{.kernel = kernel,
                                                .skip = skip,
                                                .x = x,
                                                .gate_in = gate_in,
                                                .gate_out = gate_out,
                                                .segments = segments,
                                                .y = y};
  causal_convolution(ctx, forward);
  trial.compare("output/y", y, tolerance<T>.value);
  if (!trial.has_any("grad/")) return;

  const auto dy = trial.read<T, 3>("cotangent/y", x.extents().to_array());
  auto dx = filled_like(x, not_a_number);
  auto dgate_in = filled_like(gate_in, not_a_number);
  auto dgate_out = filled_like(gate_out, not_a_number);
  auto dkernel = filled_like(kernel, 0);
  auto dskip = filled_like(skip, 0);
  causal_convolution_backward(ctx, CausalConvolutionBackward<T, HostSpace>{.forward = forward,
                                                                           .dy = dy,
                                                                           .dx = dx,
                                                                           .dgate_in = dgate_in,
                                                                           .dgate_out = dgate_out,
                                                                           .dkernel = dkernel,
                                                                           .dskip = dskip});
  trial.compare_if_given("grad/input/x", dx, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/gate_in", dgate_in, tolerance<T>.gradient);
  trial.compare_if_given("grad/input/gate_out", dgate_out, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/kernel", dkernel, tolerance<T>.gradient);
  trial.compare_if_given("grad/param/skip", dskip, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
