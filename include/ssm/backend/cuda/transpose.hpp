// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::cuda {

/// ssm::Rearrange where neighbors in memory lie along different axes, of the last two, in x and y:
/// through square tiles, so that both sides are read and written in whole lines. Any strides are
/// right, these are quick. T: float, double, half types.
template <class T>
SSM_CUDA_API void transpose(const ssm::Rearrange<T, CudaSpace>& a, Stream stream);

}  // namespace ssm::cuda
