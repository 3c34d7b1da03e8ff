// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sum_slices.hpp"
#include "ssm/op/optimizer_update.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::AdamWUpdate, evaluated in T, and
/// ssm::SumOfSquares. T: float, double.
/// partial   [sum_slices(n).count]   scratch
template <class T>
SSM_CUDA_API void adamw_update(const ssm::AdamWUpdate<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void sum_of_squares(const ssm::SumOfSquares<T, CudaSpace>& a, double* partial,
                                 Stream stream);

namespace primitive {
struct OptimizerUpdate {
  template <class Ctx, DeviceScalar T>
  static void adamw_update(Ctx& ctx, const ssm::AdamWUpdate<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::adamw_update(on_device(a), stream); });
  }
  template <class Ctx, DeviceScalar T>
  static void sum_of_squares(Ctx& ctx, const ssm::SumOfSquares<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    double* const partial = frame.template tensor<double>(sum_slices(a.x.extent(0)).count).data();
    queue(ctx, [&](Stream stream) { cuda::sum_of_squares(on_device(a), partial, stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
