// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <ssm/backend/cuda/launch.hpp>
#include <string>

namespace ssm::cuda::device {

inline void require(bool condition, const char* operation, const char* what) {
  if (!condition) throw Failure(std::string(operation) + ": " + what);
}

inline void check(cudaError_t code, const char* operation) {
  if (code != cudaSuccess) throw Failure(std::string(operation) + ": " + cudaGetErrorString(code));
}

/// Launches a kernel on `stream` with `shared` bytes of dynamic shared memory.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared,
            Stream stream, const char* operation, const Arguments&... arguments) {
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          operation);
  kernel<<<grid, threads, shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), operation);
}

/// The head of a kernel that launch_early launches: lets the next kernel begin.
__device__ inline void let_successor_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/// Waits until all that was queued before is done and seen. What comes before may only prefetch.
__device__ inline void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Whether a kernel's code for the current device can wait for its predecessors.
template <class Kernel>
bool waits_for_predecessors(Kernel kernel, const char* operation) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), operation);
  return attributes.ptxVersion >= 90;
}

/// The multiprocessors of the current device.
inline int multiprocessors(const char* operation) {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), operation);
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), operation);
  return count;
}

/// Whether all blocks of a grid run at once, if nothing else runs.
template <class Kernel>
bool fit_together(Kernel kernel, int blocks, int threads, const char* operation) {
  int on_each = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&on_each, kernel, threads, 0), operation);
  return blocks <= multiprocessors(operation) * on_each;
}

/// ask(), once for each device; `Name` is a type of the question's own.
template <class Name, class Ask>
bool once_per_device(const char* operation, Ask ask) {
  enum Answer : signed char { unknown, yes, no };
  constexpr int devices = 32;
  static std::atomic<Answer> answers[devices];
  int device = 0;
  check(cudaGetDevice(&device), operation);
  Answer answer = device < devices ? answers[device].load(std::memory_order_relaxed) : unknown;
  if (answer == unknown) {
    answer = ask() ? yes : no;
    if (device < devices) answers[device].store(answer, std::memory_order_relaxed);
  }
  return answer == yes;
}

/// The threads of a block, its bytes of dynamic shared memory, and the blocks of its cluster.
struct BlockOf {
  BlockOf(int count, std::size_t bytes = 0, int blocks = 1)
      : threads(count), shared(bytes), cluster(blocks) {}
  int threads;
  std::size_t shared;
  int cluster;
};

/// Launches a kernel that begins with let_successor_begin and wait_for_predecessors: from Hopper on
/// its launch overlaps the end of its predecessor. `Name` is the kernel's own type, for what is
/// known of each of them.
template <class Name, class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...), dim3 grid, BlockOf block, Stream stream,
                  const char* operation, const Arguments&... arguments) {
  if (block.shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(block.shared)),
          operation);
  const bool waits =
      once_per_device<Name>(operation, [&] { return waits_for_predecessors(kernel, operation); });
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (waits) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (block.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(block.cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block.threads));
  config.dynamicSmemBytes = block.shared;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), operation);
}

/// Hands out 256-byte aligned pieces of a workspace; from null it only counts.
class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(std::size_t count) {
    T* const piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace ssm::cuda::device
