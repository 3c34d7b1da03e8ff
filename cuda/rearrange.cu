// SPDX-License-Identifier: Apache-2.0
#include "parallel.cuh"
#include "ssm/backend/cuda/rearrange.hpp"

namespace ssm::cuda {

template <class T>
void rearrange(const ssm::Rearrange<T, CudaSpace>& a, Stream stream) {
  const auto x = device::operand(a.x);
  const auto y = device::operand(a.y);
  const Index columns = a.x.extent(1);
  const Index depth = a.x.extent(2);
  device::for_each_index(a.x.size(), stream, "rearrange", [=] SSM_DEVICE(Index i) {
    const Index k = i % depth;
    const Index j = i / depth % columns;
    const Index row = i / depth / columns;
    y(row, j, k) = x(row, j, k);
  });
}

template <class T>
void add(const ssm::Add<T, CudaSpace>& a, Stream stream) {
  const auto first = device::operand(a.a);
  const auto second = device::operand(a.b);
  const auto y = device::operand(a.y);
  const auto first_scale = static_cast<T>(a.a_scale);
  const auto second_scale = static_cast<T>(a.b_scale);
  device::for_each_index(a.a.extent(0), stream, "add", [=] SSM_DEVICE(Index i) {
    y(i) = first_scale * first(i) + (second ? second_scale * second(i) : T{0});
  });
}

template <class T>
void fill(const ssm::Fill<T, CudaSpace>& a, Stream stream) {
  const auto y = device::operand(a.y);
  const auto value = static_cast<T>(a.value);
  device::for_each_index(a.y.extent(0), stream, "fill", [=] SSM_DEVICE(Index i) { y(i) = value; });
}

#define SSM_INSTANTIATE(T)                                                              \
  template SSM_CUDA_API void rearrange<T>(const ssm::Rearrange<T, CudaSpace>&, Stream); \
  template SSM_CUDA_API void add<T>(const ssm::Add<T, CudaSpace>&, Stream);             \
  template SSM_CUDA_API void fill<T>(const ssm::Fill<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
