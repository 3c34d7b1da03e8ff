// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/column_slices.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/normalization.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Normalization and ssm::NormalizationBackward. T:
/// float, double, half types. Sums over a row and over rows are in double precision; in half types
/// those of a few neighbors in float, and of 512 rows and more, up to 1024 wide, those of a row.
/// sums   [3, normalization_slices(M), D]   scratch for dweight, dbias and residual_sum: rows are
///                                          summed slice by slice, then the slices
template <class T>
SSM_CUDA_API void normalization(const ssm::Normalization<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void normalization_backward(const ssm::NormalizationBackward<T, CudaSpace>& g,
                                         double* sums, Stream stream);

/// Rows that the blocks of one kernel take in turn, so many at a time, have as many slices as
/// blocks: two for each multiprocessor of a Hopper card.
inline constexpr Index normalization_gradient_rows = 8;
constexpr Index normalization_blocks(Index rows) {
  constexpr Index at_once = normalization_gradient_rows;
  return std::min<Index>((rows + at_once - 1) / at_once, 264);
}
constexpr Index normalization_slices(Index rows) {
  return std::max(column_slices(rows).count, normalization_blocks(rows));
}

namespace primitive {
struct Normalization {
  template <class Ctx, DeviceNumber T>
  static void normalization(Ctx& ctx, const ssm::Normalization<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::normalization(on_device(a), stream); });
  }
  template <class Ctx, DeviceNumber T>
  static void normalization_backward(Ctx& ctx,
                                     const ssm::NormalizationBackward<T, typename Ctx::Space>& g) {
    const Index width = g.dy.extent(1);
    auto frame = ctx.workspace().frame();
    double* sums = nullptr;
    if (g.dweight || g.dbias || g.residual_sum) {
      const Index slices = normalization_slices(g.dy.extent(0));
      sums = frame.template tensor<double>(3, slices, width).data();
    }
    queue(ctx, [&](Stream stream) { cuda::normalization_backward(on_device(g), sums, stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
