// expect: x is of another scalar than the parameters
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<double>& parameters,
             ssm::View<const float, 3> x, ssm::View<double, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
