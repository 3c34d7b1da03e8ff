// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/extents.hpp>

int main() {
  const ssm::Extents<ssm::dyn, ssm::dyn, 256> extents(3, 65);
  return extents.size() == 3 * 65 * 256 ? 0 : 1;
}
