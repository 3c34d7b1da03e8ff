// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <ssm/core/extents.hpp>
#include <ssm/version.hpp>

int main() {
  const ssm::Extents<ssm::dyn, ssm::dyn, 256> extents(3, 65);
  std::cout << "ssm " << SSM_VERSION_STRING << ", " << extents.size() << " elements\n";
  return extents.size() == 3 * 65 * 256 ? 0 : 1;
}
