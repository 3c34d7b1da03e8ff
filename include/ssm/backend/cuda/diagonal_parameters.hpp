// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/diagonal_parameters.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::DiagonalParameters and
/// ssm::DiagonalParametersBackward. T: float, double.
template <class T>
SSM_CUDA_API void diagonal_parameters(const ssm::DiagonalParameters<T, CudaSpace>& a,
                                      Stream stream);
template <class T>
SSM_CUDA_API void diagonal_parameters_backward(
    const ssm::DiagonalParametersBackward<T, CudaSpace>& g, Stream stream);

namespace primitive {
struct DiagonalParameters {
  template <class Ctx, DeviceScalar T>
  static void diagonal_parameters(Ctx& ctx,
                                  const ssm::DiagonalParameters<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::diagonal_parameters(on_device(a), stream); });
  }
  template <class Ctx, DeviceScalar T>
  static void diagonal_parameters_backward(
      Ctx& ctx, const ssm::DiagonalParametersBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) { cuda::diagonal_parameters_backward(on_device(g), stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
