// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/core/recording.hpp"
#include "ssm/op/dropout.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Dropout: the same elements are kept on every
/// backend. T: float, double, half types.
template <class T>
SSM_CUDA_API void dropout(const ssm::Dropout<T, CudaSpace>& a, Stream stream);

namespace primitive {
struct Dropout {
  template <class Ctx, DeviceNumber T>
  static void dropout(Ctx& ctx, const ssm::Dropout<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      if (is_recording(stream)) throw NotRecordable("dropout: its seed is another in every call");
      cuda::dropout(on_device(a), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
