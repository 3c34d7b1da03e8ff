// expect: this layer needs primitives that the backend lacks
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/layer/mamba.hpp>

using Layer = ssm::Mamba<ssm::MambaConfig{.channels = 4}>;

/// A backend that has matrix products and no scans.
struct Products : ssm::reference::Matmul {
  using Space = ssm::HostSpace;
  struct Resources {};
};

void forward(ssm::Context<Products>& ctx, const Layer::Parameters<float>& parameters,
             ssm::View<const float, 3> x, ssm::View<float, 3> y) {
  Layer().forward(ctx, parameters, x, y);
}
