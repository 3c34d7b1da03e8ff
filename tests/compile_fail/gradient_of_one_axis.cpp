// expect: dy must be .L, D. or .B, L, D.
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

void backward(ssm::Context<ssm::Reference>& ctx, const Layer::Parameters<double>& parameters,
              const Layer::Tape<double>& tape, ssm::View<const double, 1> dy,
              ssm::View<double, 3> dx, Layer::Parameters<double>& gradients) {
  Layer().backward(ctx, parameters, tape, dy, dx, gradients);
}
