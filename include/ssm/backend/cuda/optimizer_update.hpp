// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sum_slices.hpp"
#include "ssm/op/optimizer_update.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::AdamWUpdate, evaluated in T, and
/// ssm::SumOfSquares. T: float, double. One kernel for tensors_a_kernel tensors.
/// partial   squares_scratch_count(tensors) numbers
template <class T>
SSM_CUDA_API void adamw_update(std::span<const ssm::AdamWUpdate<T, CudaSpace>> tensors,
                               Stream stream);
template <class T>
SSM_CUDA_API void sum_of_squares(std::span<const ssm::SumOfSquares<T, CudaSpace>> tensors,
                                 double* partial, Stream stream);

/// Of many tensors: few slices, which one block adds.
constexpr SumSlices squares_slices(Index count) { return sum_slices(count, 8192); }
template <class T, class Space>
Index squares_scratch_count(std::span<const ssm::SumOfSquares<T, Space>> tensors) {
  Index count = 0;
  for (const auto& a : tensors) count += squares_slices(a.x.extent(0)).count;
  return count;
}

namespace primitive {
struct OptimizerUpdate {
  template <class Ctx, DeviceScalar T>
  static void adamw_update_each(Ctx& ctx,
                                std::span<const ssm::AdamWUpdate<T, typename Ctx::Space>> tensors) {
    queue(ctx, [&](Stream stream) {
      for_each_on_device<tensors_a_kernel>(tensors,
                                           [&](auto some) { cuda::adamw_update<T>(some, stream); });
    });
  }
  template <class Ctx, DeviceScalar T>
  static void adamw_update(Ctx& ctx, const ssm::AdamWUpdate<T, typename Ctx::Space>& a) {
    adamw_update_each(ctx, std::span(&a, 1));
  }
  template <class Ctx, DeviceScalar T>
  static void sum_of_squares_each(
      Ctx& ctx, std::span<const ssm::SumOfSquares<T, typename Ctx::Space>> tensors) {
    auto frame = ctx.workspace().frame();
    double* const partial = frame.template tensor<double>(squares_scratch_count(tensors)).data();
    queue(ctx, [&](Stream stream) {
      for_each_on_device<tensors_a_kernel>(
          tensors, [&](auto some) { cuda::sum_of_squares<T>(some, partial, stream); });
    });
  }
  template <class Ctx, DeviceScalar T>
  static void sum_of_squares(Ctx& ctx, const ssm::SumOfSquares<T, typename Ctx::Space>& a) {
    sum_of_squares_each(ctx, std::span(&a, 1));
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
