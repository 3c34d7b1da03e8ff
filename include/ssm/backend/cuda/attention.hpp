// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/attention.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as the operands of ssm::. T: float, double, sums in T.
/// A warp walks over a query's keys, 16 at a time, and rescales what it has when a larger score comes.
template <class T>
SSM_CUDA_API void attention(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                            Stream stream);
/// Scores are computed twice more: by query for dq, by key for dk and dv.
/// workspace   B·L·H scalars
template <class T>
SSM_CUDA_API void attention_backward(const ssm::AttentionBackward<T, CudaSpace>& g,
                                     DeviceSegments segments, T* workspace, Stream stream);
template <class T>
SSM_CUDA_API void rotary(const ssm::Rotary<T, CudaSpace>& a, DeviceSegments segments,
                         Stream stream);

namespace primitive {
struct Attention {
  template <class Ctx, DeviceScalar T>
  static void attention(Ctx& ctx, const ssm::Attention<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::attention(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void attention_backward(Ctx& ctx,
                                 const ssm::AttentionBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto workspace = frame.template tensor<T>(g.log_sum.extents());
      cuda::attention_backward(on_device(g), segments, workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void rotary(Ctx& ctx, const ssm::Rotary<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::rotary(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
