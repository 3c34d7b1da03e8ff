// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/convert.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Rearrange, ssm::Add and ssm::Fill. T: float,
/// double, half types. One kernel fills
/// tensors_a_kernel tensors.
template <class T>
SSM_CUDA_API void rearrange(const ssm::Rearrange<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void add(const ssm::Add<T, CudaSpace>& a, Stream stream);
template <class T>
SSM_CUDA_API void fill(std::span<const ssm::Fill<T, CudaSpace>> tensors, Stream stream);
template <class T>
void fill(const ssm::Fill<T, CudaSpace>& a, Stream stream) {
  fill<T>(std::span(&a, 1), stream);
}
/// ssm::Convert between float and a half type: four numbers a thread where the last axis has stride
/// 1 and rows are aligned to as many, else one.
template <class From, class To>
SSM_CUDA_API void convert(const ssm::Convert<From, To, CudaSpace>& a, Stream stream);

namespace primitive {
struct Rearrange {
  template <class Ctx, DeviceNumber T>
  static void rearrange(Ctx& ctx, const ssm::Rearrange<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::rearrange(on_device(a), stream); });
  }
  template <class Ctx, DeviceNumber T>
  static void add(Ctx& ctx, const ssm::Add<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) { cuda::add(on_device(a), stream); });
  }
  template <class Ctx, class From, class To>
    requires(std::same_as<Wide<From>, float>&& std::same_as<Wide<To>, float>&& HalfStorage<From> !=
             HalfStorage<To>)
  static void convert(Ctx& ctx, const ssm::Convert<From, To, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      cuda::convert(std::bit_cast<ssm::Convert<From, To, CudaSpace>>(a), stream);
    });
  }
  template <class Ctx, DeviceNumber T>
  static void fill(Ctx& ctx, const ssm::Fill<T, typename Ctx::Space>& a) {
    fill_each(ctx, std::span(&a, 1));
  }
  template <class Ctx, DeviceNumber T>
  static void fill_each(Ctx& ctx, std::span<const ssm::Fill<T, typename Ctx::Space>> tensors) {
    queue(ctx, [&](Stream stream) {
      for_each_on_device<tensors_a_kernel>(tensors,
                                           [&](auto some) { cuda::fill<T>(some, stream); });
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
