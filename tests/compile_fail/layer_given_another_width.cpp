// expect: x or y has another width than the layer
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<float>& parameters,
             ssm::TensorView<const float, ssm::Extents<ssm::dyn, ssm::dyn, 4>> x,
             ssm::View<float, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
