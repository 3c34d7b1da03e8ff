// SPDX-License-Identifier: Apache-2.0
// Also what ssm::cpu and ssm::io bring along.
#include <Eigen/Core>
#include <nlohmann/json.hpp>
#include <ssm/core/extents.hpp>
#include <xsimd/xsimd.hpp>

#if SSM_WITH_FFTW
#include <fftw3.h>
#endif

int main() {
#if SSM_WITH_FFTW
  fftw_cleanup();
  fftwf_cleanup();
#endif
  const ssm::Extents<ssm::dyn, ssm::dyn, 256> extents(3, 65);
  const bool complete = extents.size() == 3 * 65 * 256 && Eigen::Vector2f::Ones().sum() == 2.0F &&
                        xsimd::batch<float>::size >= 1 && nlohmann::json::parse("[1]").size() == 1;
  return complete ? 0 : 1;
}
