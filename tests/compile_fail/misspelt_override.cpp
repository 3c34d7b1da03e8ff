// expect: overrides
// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/reference.hpp>
#include <ssm/core/overrides.hpp>

struct Mine : ssm::Reference {
  template <class T>
  static void matmull(ssm::Context<Mine>& ctx, const ssm::Matmul<T, ssm::HostSpace>& a) {
    ssm::Reference::matmul(ctx, a);
  }
};
static_assert(ssm::overrides<Mine, ssm::Matmul<float, ssm::HostSpace>>(&Mine::matmul,
                                                                       &ssm::Reference::matmul));
