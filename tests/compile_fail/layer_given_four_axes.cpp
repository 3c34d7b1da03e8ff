// expect: x must be .L, D. or .B, L, D.
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<float>& parameters,
             ssm::View<const float, 4> x, ssm::View<float, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
