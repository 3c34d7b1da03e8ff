// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm::cuda::device {

/// Asks for the 128-byte line at an address of the device to be brought to the L2 cache; on the
/// host, nothing.
#ifdef __CUDACC__
__host__ __device__ inline void prefetch([[maybe_unused]] const void* address) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#endif
}
#else
inline void prefetch(const void*) {}
#endif

}  // namespace ssm::cuda::device
