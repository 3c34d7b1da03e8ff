// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>  // std::size_t
#include <cstdint>  // std::int64_t

#include "ssm/core/error.hpp"     // Error
#include "ssm/core/scalar.hpp"    // BFloat16, Float16
#include "ssm/op/discretize.hpp"  // Complex

#if defined(_WIN32)
#define SSM_CUDA_API
#else
#define SSM_CUDA_API __attribute__((visibility("default")))
#endif

namespace ssm::cuda {

/// A cudaStream_t, opaque so that no CUDA header is needed. Null is the default stream.
using Stream = void*;

/// A [B, D, L] tensor on the device with positions contiguous; the other two axes have strides.
template <class T>
struct Sequences {
  T* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t channel_stride = 0;
};

/// A call to the CUDA runtime, or the arguments of a launch, that failed.
class SSM_CUDA_API Failure : public Error {
 public:
  using Error::Error;
};

/// Number of usable devices: 0 on a machine without a GPU or driver, where every launch throws
/// Failure.
SSM_CUDA_API int device_count() noexcept;

}  // namespace ssm::cuda
