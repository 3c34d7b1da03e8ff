// SPDX-License-Identifier: Apache-2.0
#include "language_models.hpp"
#include "ssm/backend/cuda.hpp"

// On host memory that the device sees: the checks read and write what it computes.
const std::vector<ssm::conformance::Kind>& ssm::conformance::cuda_float_language_models() {
  return language_models<BasicCuda<HostSpace>, float>();
}
