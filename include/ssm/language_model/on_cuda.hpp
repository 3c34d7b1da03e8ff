// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/device.hpp"
#include "ssm/language_model/model_on.hpp"

namespace ssm::detail {

/// "cuda-tf32" computes matrix products on tensor cores, their factors rounded to 10 bits.
template <>
struct ResourcesAtRunTime<cuda::Resources> {
  static cuda::Resources make(const BackendOptions& options) {
    using enum cuda::MatmulPrecision;
    return cuda::Resources(Device{options.device}, options.backend == "cuda-tf32" ? tf32 : exact);
  }
};

}  // namespace ssm::detail
