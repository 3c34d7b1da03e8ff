// expect: no match for call|no matching function for call
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/tensor.hpp>

struct Elsewhere : ssm::HostSpace {
  static constexpr bool host_readable = false;
};

float first(ssm::View<float, 1, Elsewhere> view) { return view(0); }
