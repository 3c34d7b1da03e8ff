// SPDX-License-Identifier: Apache-2.0
#pragma once

// Copies of 16 bytes to shared memory that do not pass through registers.

#ifdef __CUDACC__

namespace ssm::cuda::device {

/// Copies 16 bytes; ordered by wait_for_copies or wait_for_groups in the same thread.
__device__ inline void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
/// Copies 16 bytes, or writes as many zeros and reads nothing.
__device__ inline void copy_async_or_zero(void* to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(is_there ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace ssm::cuda::device

#endif
