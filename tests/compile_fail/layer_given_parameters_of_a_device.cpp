// expect: the parameters lie in other memory than the context.s backend
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/linear.hpp>

using Layer = ssm::Linear<ssm::LinearConfig{.inputs = 3, .outputs = 5}>;

struct Elsewhere : ssm::HostSpace {
  static constexpr bool host_readable = false;
};

void forward(ssm::Context<ssm::Reference>& ctx,
             const Layer::Parameters<float, Elsewhere>& parameters, ssm::View<const float, 3> x,
             ssm::View<float, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
