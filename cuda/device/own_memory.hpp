// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "ssm/backend/cuda/launch.hpp"

namespace ssm::cuda::device {

/// From the CUDA runtime. Throws OutOfMemory, Failure.
void* allocate(std::size_t bytes);
void deallocate(void* pointer) noexcept;
/// The stream of the host thread's StreamScope; null without one.
Stream scope_stream() noexcept;

}  // namespace ssm::cuda::device
