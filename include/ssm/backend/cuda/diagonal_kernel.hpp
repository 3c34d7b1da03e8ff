// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/diagonal_kernel.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::DiagonalKernel and ssm::DiagonalKernelBackward. T:
/// float, double. Powers, and sums over modes and positions, are in double precision. A thread
/// starts at its first position by squaring and takes every so many positions from there.
/// scratch   diagonal_kernel_scratch_count(R, P), for the gradient R·P numbers
template <class T>
SSM_CUDA_API void diagonal_kernel(const ssm::DiagonalKernel<T, CudaSpace>& a, double* scratch,
                                  Stream stream);
template <class T>
SSM_CUDA_API void diagonal_kernel_backward(const ssm::DiagonalKernelBackward<T, CudaSpace>& g,
                                           double* scratch, Stream stream);

/// What a mode needs for every position: Ā, its power across a step, and w·C·B̄.
constexpr Index diagonal_kernel_scratch_count(Index rows, Index modes) { return 6 * rows * modes; }

namespace primitive {
struct DiagonalKernel {
  template <class Ctx, DeviceScalar T>
  static void diagonal_kernel(Ctx& ctx, const ssm::DiagonalKernel<T, typename Ctx::Space>& a) {
    auto frame = ctx.workspace().frame();
    const Index count = diagonal_kernel_scratch_count(a.A.extent(0), a.A.extent(1));
    double* const scratch = frame.template tensor<double>(count).data();
    queue(ctx, [&](Stream stream) { cuda::diagonal_kernel(on_device(a), scratch, stream); });
  }
  template <class Ctx, DeviceScalar T>
  static void diagonal_kernel_backward(
      Ctx& ctx, const ssm::DiagonalKernelBackward<T, typename Ctx::Space>& g) {
    auto frame = ctx.workspace().frame();
    double* const scratch =
        frame.template tensor<double>(g.forward.A.extent(0), g.forward.A.extent(1)).data();
    queue(ctx,
          [&](Stream stream) { cuda::diagonal_kernel_backward(on_device(g), scratch, stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
