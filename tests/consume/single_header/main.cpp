// SPDX-License-Identifier: Apache-2.0
// A layer on the Reference backend: forward, backward and steps, from one header beside this file.
#include "ssm.hpp"

int main() {
  using Layer = ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 4, .state = 8}>;
  const Layer layer;
  ssm::Context<ssm::Reference> ctx;
  const auto parameters = layer.initialize<double>(ctx, ssm::Seed{1});
  auto gradients = layer.zero_parameters<double>(ctx);
  auto tape = layer.make_tape(parameters);
  ssm::DynamicTensor<double, 3> x({2, 9, 4}), y({2, 9, 4}), dx({2, 9, 4}), streamed({2, 9, 4});
  ssm::fill_normal(x, ssm::Seed{2});
  layer.forward(ctx, parameters, x, y, tape);
  layer.backward(ctx, parameters, tape, y, dx, gradients);
  auto state = layer.initial_state<double>(ctx, 2);
  for (ssm::Index t = 0; t < 9; ++t)
    layer.step(ctx, parameters, x.select(1, t), streamed.select(1, t), state);
  const bool good = SSM_VERSION == 100 && ssm::largest_difference(y, streamed).value < 1e-12;
  return good && dx(1, 0, 3) != 0 ? 0 : 1;
}
