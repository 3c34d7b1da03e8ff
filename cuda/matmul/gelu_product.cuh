// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/matmul.hpp"

namespace ssm::cuda::device {

/// z ← a·b + bias and c ← gelu_tanh(z), by a kernel of our own: of half types and many rows with a
/// short inner axis, where z is kept. False, and nothing is done, where it is for cuBLASLt.
template <class T>
bool gelu_product(const ssm::Matmul<T, CudaSpace>& a, Stream stream);

}  // namespace ssm::cuda::device
