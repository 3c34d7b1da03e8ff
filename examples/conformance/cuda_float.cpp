// SPDX-License-Identifier: Apache-2.0
#include "kinds.hpp"
#include "ssm/backend/cuda.hpp"

// On host memory that the device sees: the checks read and write what it computes. Short as the cases are, they go to tensor
// cores where they can; in double and in language models the choice is the user's, the general kernels mostly.
const std::vector<ssm::conformance::Kind>& ssm::conformance::cuda_float_kinds() {
  return kinds<BasicCuda<HostSpace, cuda::TensorCoreKernels>, float>();
}
