// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "ssm/backend/cuda/device.hpp"

namespace ssm::cuda {

class RowExchange {
 public:
  explicit RowExchange(Stream stream);
  RowExchange(const RowExchange&) = delete;
  RowExchange& operator=(const RowExchange&) = delete;
  ~RowExchange() { deallocate(memory_); }

  /// Of all kernels so far: blocks that arrived, modulo 2³², and above them those that left.
  using Count = unsigned long long;
  struct Memory {
    alignas(128) float numbers[row_exchange_numbers];
    alignas(128) Count counted;
    alignas(128) Count before;                // the kernel that runs
    unsigned left[row_exchange_blocks / 32];  // a bit for each block whose share is left
  };
  Memory* memory() const { return memory_; }

 private:
  Memory* memory_;
};

}  // namespace ssm::cuda
