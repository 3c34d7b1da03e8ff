// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number
#include "ssm/layer/selective_transition.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_selective_transition(Trial& trial) {
  using Layer = SelectiveTransition<SelectiveTransitionConfig{}>;
  const Layer layer(
      {.channels = trial.size("d"), .hidden = trial.size("hidden"), .width = trial.size("width")});
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  auto parameters = layer.template zero_parameters<T>(ctx);
  read_parameters<Layer>(trial, parameters);
  const auto x = trial.read<T, 3>("input/x");
  const auto h = trial.read<T, 3>("input/h", {x.extent(0), x.extent(1), layer.outputs()});
  auto gate = filled_like(h, not_a_number);
  auto y = filled_like(h, not_a_number);
  auto tape = layer.template make_tape<T>(ctx);
  layer.forward(ctx, parameters, x, gate, tape);
  Layer::template select<T>(ctx, gate, h, y);
  trial.compare("output/y", y, tolerance<T>.value);

  const auto dy = trial.read<T, 3>("cotangent/y", h.extents().to_array());
  auto dx = filled_like(x, not_a_number);
  auto dh = filled_like(h, not_a_number);
  auto dgate = filled_like(h, not_a_number);
  auto gradients = layer.template zero_parameters<T>(ctx);
  Layer::template select_backward<T>(ctx, gate, h, dy, dh, dgate);
  layer.backward(ctx, parameters, tape, dgate, dx, gradients);
  trial.compare("grad/input/x", dx, tolerance<T>.gradient);
  trial.compare("grad/input/h", dh, tolerance<T>.gradient);
  compare_gradients<Layer>(trial, gradients, tolerance<T>.gradient);
}

}  // namespace ssm::conformance
