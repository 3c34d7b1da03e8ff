// expect: x_t must be .D. or .B, D.
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void step(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<float>& parameters,
          ssm::View<const float, 3> x, ssm::View<float, 2> y, ssm::NoState state) {
  Layer().step(ctx, parameters, x, y, state);
}
