// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/device.hpp"
#include "ssm/core/dlpack.hpp"

namespace ssm {

/// Memory of a CUDA device, and what CUDA moves between the host and a device.
template <>
struct DlpackDevice<cuda::CudaSpace> {
  static constexpr int type = 2;
  static constexpr bool reads(int other) { return other == 2 || other == 13; }
};

}  // namespace ssm
