// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

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
