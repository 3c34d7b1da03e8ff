// SPDX-License-Identifier: Apache-2.0
#include "kinds.hpp"
#include "ssm/backend/cuda.hpp"

// On host memory that the device sees: the checks read and write what it computes.
const std::vector<ssm::conformance::Kind>& ssm::conformance::cuda_double_kinds() {
  return kinds<BasicCuda<HostSpace>, double>();
}
