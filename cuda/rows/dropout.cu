// SPDX-License-Identifier: Apache-2.0
#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/dropout.hpp"

namespace ssm::cuda {

template <class T>
void dropout(const ssm::Dropout<T, CudaSpace>& a, Stream stream) {
  const auto x = device::operand(a.x);
  const auto y = device::operand(a.y);
  const Random random(a.seed);
  const double probability = a.probability;
  const auto factor = static_cast<Wide<T>>(1 / (1 - a.probability));
  device::for_each_index(a.x.extent(0), stream, "dropout", [=] SSM_DEVICE(Index i) {
    const bool kept = random.uniform(static_cast<std::uint64_t>(i)) >= probability;
    y(i) = kept ? device::narrowed<T>(device::widened(x(i)) * factor) : T{};
  });
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void dropout<T>(const ssm::Dropout<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
