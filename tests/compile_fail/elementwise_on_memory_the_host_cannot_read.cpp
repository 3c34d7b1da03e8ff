// expect: constraints not satisfied|no matching function
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/elementwise.hpp>

struct Elsewhere : ssm::HostSpace {
  static constexpr bool host_readable = false;
};

void zero(ssm::View<float, 2, Elsewhere> view) { ssm::fill(view, 0); }
