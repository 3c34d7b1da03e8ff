// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/activation.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Activation and ssm::ActivationBackward. T: float,
/// double, half types; the functions are evaluated in Wide<T>, for half types to about 22 bits.
template <class T>
SSM_CUDA_API void activation(const ssm::Activation<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void activation_backward(const ssm::ActivationBackward<T, CudaSpace>& g,
                                      Stream stream);

namespace primitive {
struct Activation {
  template <class Ctx, DeviceNumber T>
  static void activation(Ctx& ctx, const ssm::Activation<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::activation(on_device(a), stream); });
  }
  template <class Ctx, DeviceNumber T>
  static void activation_backward(Ctx& ctx,
                                  const ssm::ActivationBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) { cuda::activation_backward(on_device(g), stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
