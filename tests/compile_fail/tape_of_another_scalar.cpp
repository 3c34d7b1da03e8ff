// expect: the tape is not this layer.s in the scalar and memory of the parameters
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void forward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<double>& parameters,
             ssm::View<const double, 3> x, ssm::View<double, 3> y) {
  auto tape = Layer().make_tape();  // of float
  Layer().forward(ctx, parameters, x, y, tape);
}
