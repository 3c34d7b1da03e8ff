// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>

#include "kernel/parallel.cuh"

namespace ssm::cuda::device {

/// Consecutive numbers of a factor that a lane takes at a time: 16 bytes of half types.
inline constexpr Index run_length = 8;

template <class T>
struct alignas(16) Run {
  T values[run_length];
};

/// A run at an address that 16 bytes divide, in as few loads as can be.
template <class T>
SSM_HOST_DEVICE Run<T> load_run(const T* from) {
  Run<T> loaded;
  std::memcpy(&loaded, __builtin_assume_aligned(from, 16), sizeof(loaded));
  return loaded;
}

}  // namespace ssm::cuda::device
