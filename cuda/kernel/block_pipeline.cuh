// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/launch.cuh"
#include "kernel/shared_tiles.cuh"
#include "kernel/warpgroup_products.cuh"

namespace ssm::cuda::device {

// What warpgroups with different work in one block need: barriers in shared memory that some wait
// for and others arrive at, and registers that one gives up for another. For sm_90a only.

/// Whether the current device runs a kernel's code for sm_90a: no other has barriers, and so shared
/// memory. `Name` is a type of the kernel's own.
template <class Name, class Kernel>
bool has_shared_barriers(Kernel kernel, const char* operation) {
  return once_per_device<Name>(operation, [&] {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), operation);
    return attributes.sharedSizeBytes > 0;
  });
}

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

using SharedBarrier = unsigned long long;

/// A phase of the barrier ends with the `count`-th arrival; by one thread, before all synchronize.
__device__ inline void start(SharedBarrier& barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(shared_address(&barrier)), "r"(count)
               : "memory");
}
/// Started barriers become visible to the copy engine.
__device__ inline void show_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(SharedBarrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(shared_address(&barrier))
               : "memory");
}
/// Waits until the phase of that number, counted from 0, has ended; the next may not have.
__device__ inline void wait_for_phase(SharedBarrier& barrier, unsigned phase) {
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;\n"
      "@!p bra again;\n}" ::"r"(shared_address(&barrier)),
      "r"(phase & 1)
      : "memory");
}
/// The block's barrier `Number`, for `threads` of it: those that wait and those that only arrive.
__device__ inline void meet(int number, int threads) {
  asm volatile("bar.sync %0,%1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void announce(int number, int threads) {
  asm volatile("bar.arrive %0,%1;" ::"r"(number), "r"(threads) : "memory");
}

/// True for one lane of a whole warp, always the same.
__device__ inline bool is_elected() {
  unsigned elected;
  asm volatile("{.reg .pred p;\nelect.sync _|p,0xffffffff;\nselp.u32 %0,1,0,p;}" : "=r"(elected));
  return elected != 0;
}
/// Arrives, and the barrier's phase waits for that many bytes of bulk copies.
__device__ inline void expect(SharedBarrier& full, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(shared_address(&full)),
               "r"(bytes)
               : "memory");
}
/// Begins to copy to shared memory, by one thread. 16 divides the bytes' number and addresses.
__device__ inline void copy_bulk(void* to, const void* from, int bytes, SharedBarrier& full) {
  expect(full, bytes);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&full))
      : "memory");
}
/// Adds to, or writes, numbers in memory from shared memory that show_copies was called for; 16
/// bytes divide their number and addresses. By one thread; finish_bulk_copies waits for the end.
__device__ inline void add_bulk(float* to, const float* from, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0],[%1],%2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ inline void write_bulk(float* to, const float* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0],[%1],%2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
/// Shared memory has been read.
__device__ inline void finish_bulk_reads() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}
/// What was written can be seen.
__device__ inline void finish_bulk_copies() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
/// Waits until another block has passed the turn of that number, and passes it on: what came before
/// has been done. Orders bulk copies alone, which do not pass through the first cache: an acquiring
/// load would empty it.
__device__ inline void wait_for_number(const int* turn, int number) {
  int now;
  do {
    asm volatile("ld.relaxed.gpu.global.s32 %0,[%1];" : "=r"(now) : "l"(turn) : "memory");
  } while (now != number);
}
__device__ inline void pass_number(int* turn, int next) {
  asm volatile("st.release.gpu.global.s32 [%0],%1;" ::"l"(turn), "r"(next) : "memory");
}

template <int Count>
__device__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

#endif

}  // namespace ssm::cuda::device
