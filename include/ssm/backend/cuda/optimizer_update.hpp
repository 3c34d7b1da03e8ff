// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sum_slices.hpp"
#include "ssm/op/optimizer_update.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::AdamWUpdate, evaluated in T, and
/// ssm::SumOfSquares. T: float, double. One kernel for tensors_a_kernel tensors.
/// factors   [tensors]   scratch, of those with squares or losses
template <class T>
SSM_CUDA_API void adamw_update(std::span<const ssm::AdamWUpdate<T, CudaSpace>> tensors, T* factors,
                               Stream stream);
/// partial   [squares_scratch_count(tensors)]   sums of the slices, which add_squares adds to *sum
template <class T>
SSM_CUDA_API void squares_of_slices(std::span<const ssm::SumOfSquares<T, CudaSpace>> tensors,
                                    double* partial, Stream stream);
SSM_CUDA_API void add_squares(const double* partial, Index count, double* sum, Stream stream);

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
    auto frame = ctx.workspace().frame();
    T* const factors = frame.template tensor<T>(static_cast<Index>(tensors_a_kernel)).data();
    queue(ctx, [&](Stream stream) {
      for_each_on_device<tensors_a_kernel>(
          tensors, [&](auto some) { cuda::adamw_update<T>(some, factors, stream); });
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
      double* end = partial;
      for_each_on_device<tensors_a_kernel>(tensors, [&](auto some) {
        cuda::squares_of_slices<T>(some, end, stream);
        end += squares_scratch_count(some);
      });
      const double* begin = partial;
      for (std::size_t first = 0, next; first < tensors.size(); first = next) {
        double* const sum = tensors[first].sum.data();
        for (next = first; next < tensors.size() && tensors[next].sum.data() == sum;) ++next;
        const Index count = squares_scratch_count(tensors.subspan(first, next - first));
        add_squares(begin, count, sum, stream);
        begin += count;
      }
    });
  }
  template <class Ctx, DeviceScalar T>
  static void sum_of_squares(Ctx& ctx, const ssm::SumOfSquares<T, typename Ctx::Space>& a) {
    sum_of_squares_each(ctx, std::span(&a, 1));
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
