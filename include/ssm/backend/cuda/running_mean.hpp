// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/running_mean.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::RunningMean and ssm::RunningMeanBackward. T:
/// float, double; sums in double. A thread for every channel of a sequence, which walks its
/// positions.
template <class T>
SSM_CUDA_API void running_mean(const ssm::RunningMean<T, CudaSpace>& a, DeviceSegments segments,
                               Stream stream);
template <class T>
SSM_CUDA_API void running_mean_backward(const ssm::RunningMeanBackward<T, CudaSpace>& g,
                                        DeviceSegments segments, Stream stream);

namespace primitive {
struct RunningMean {
  template <class Ctx, DeviceScalar T>
  static void running_mean(Ctx& ctx, const ssm::RunningMean<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::running_mean(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void running_mean_backward(Ctx& ctx,
                                    const ssm::RunningMeanBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::running_mean_backward(on_device(g), segments_on_device(ctx, frame, g.segments), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
