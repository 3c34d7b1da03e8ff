// SPDX-License-Identifier: Apache-2.0
// Also what ssm::cpu and ssm::io bring along.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <ssm/core/extents.hpp>
#include <ssm/version.hpp>
#include <xsimd/xsimd.hpp>

// The header and the package are of one version.
static_assert(std::array{PACKAGE_VERSION} ==
              std::array{SSM_VERSION_MAJOR, SSM_VERSION_MINOR, SSM_VERSION_PATCH});

int main() {
  const ssm::Extents<ssm::dyn, ssm::dyn, 256> extents(3, 65);
  const bool complete = extents.size() == 3 * 65 * 256 && xsimd::batch<float>::size >= 1 &&
                        nlohmann::json::parse("[1]").size() == 1;
  return complete ? 0 : 1;
}
