// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/choice.hpp"

namespace ssm::cuda {

#ifdef SSM_TEST_CUDA
inline void pretend_tensor_core_kernels(bool) {}
#else
/// Whether has_tensor_core_kernels() says yes where there is no device; at first it says no.
void pretend_tensor_core_kernels(bool on);
#endif

}  // namespace ssm::cuda
