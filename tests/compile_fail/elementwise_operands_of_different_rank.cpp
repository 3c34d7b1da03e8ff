// expect: the operands differ in rank
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/compare.hpp>

bool same(ssm::View<const float, 2> a, ssm::View<const float, 3> b) {
  return ssm::all_close(a, b, 0);
}
