// SPDX-License-Identifier: Apache-2.0
#include "device/launch.cuh"
#include "ssm/backend/cuda/choice.hpp"

namespace ssm::cuda {

bool has_tensor_core_kernels() {
  constexpr int needed = 224 * 1024;  // bytes: the largest block of them
  int device = 0;
  int shared = 0;
  device::check(cudaGetDevice(&device), "cudaGetDevice");
  device::check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                "cudaDeviceGetAttribute");
  return shared >= needed;
}

}  // namespace ssm::cuda
