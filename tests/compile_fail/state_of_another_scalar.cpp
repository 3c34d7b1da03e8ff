// expect: the state is not this layer.s in the scalar and memory of the parameters
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/shift_ssm.hpp>

using Layer = ssm::ShiftSsm<ssm::ShiftSsmConfig{.channels = 4, .state = 3}>;

void step(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<double>& parameters,
          ssm::View<const double, 2> x, ssm::View<double, 2> y) {
  auto state = Layer().initial_state(ctx, 1);  // of float
  Layer().step(ctx, parameters, x, y, state);
}
