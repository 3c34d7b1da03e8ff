// expect: x is nothing that ssm::view_of takes
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

struct Picture {};

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<float>& parameters,
             const Picture& x, ssm::View<float, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
