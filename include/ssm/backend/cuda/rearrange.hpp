// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Rearrange, ssm::Add and ssm::Fill. T: float,
/// double.
template <class T>
SSM_CUDA_API void rearrange(const ssm::Rearrange<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void add(const ssm::Add<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void fill(const ssm::Fill<T, CudaSpace>& a, Stream stream);

namespace primitive {
struct Rearrange {
  template <class Ctx, DeviceScalar T>
  static void rearrange(Ctx& ctx, const ssm::Rearrange<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::rearrange(on_device(a), stream); });
  }
  template <class Ctx, DeviceScalar T>
  static void add(Ctx& ctx, const ssm::Add<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::add(on_device(a), stream); });
  }
  template <class Ctx, DeviceScalar T>
  static void fill(Ctx& ctx, const ssm::Fill<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::fill(on_device(a), stream); });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
