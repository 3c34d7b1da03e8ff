// SPDX-License-Identifier: Apache-2.0
#include "launch.cuh"
#include "ssm/backend/cuda/choice.hpp"

namespace ssm::cuda {

bool has_tensor_core_kernels() {
  int device = 0;
  int major = 0;
  device::check(cudaGetDevice(&device), "cudaGetDevice");
  device::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                "cudaDeviceGetAttribute");
  return major >= 8;
}

}  // namespace ssm::cuda
