// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/pair_rotation.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as the operands of ssm::. T: float, double; angles in
/// double.
template <class T>
SSM_CUDA_API void pair_rotation(const ssm::PairRotation<T, CudaSpace>& a, DeviceSegments segments,
                                Stream stream);
SSM_CUDA_API void advance_position(const ssm::AdvancePosition<CudaSpace>& a,
                                   DeviceSegments segments, Stream stream);

namespace primitive {
struct PairRotation {
  template <class Ctx, DeviceScalar T>
  static void pair_rotation(Ctx& ctx, const ssm::PairRotation<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::pair_rotation(on_device(a), segments_on_device(ctx, frame, a.segments), stream);
    });
  }
  template <class Ctx>
  static void advance_position(Ctx& ctx, const ssm::AdvancePosition<typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      cuda::advance_position(std::bit_cast<ssm::AdvancePosition<CudaSpace>>(a),
                             segments_on_device(ctx, frame, a.segments), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
