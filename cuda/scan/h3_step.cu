// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "scan/h3_step_row.cuh"
#include "ssm/backend/cuda/h3_step.hpp"

namespace ssm::cuda {

template <class T>
void h3_step(const ssm::H3Step<T, CudaSpace>& a, Stream stream) {
  // So many warps are resident together; with more, one takes several sequences.
  constexpr Index busy = 4096;
  const Index channels = std::max<Index>(a.mixer.q.extent(2), 1);
  const Index sequences = std::max<Index>(1, a.mixer.q.extent(0) * channels / busy);
  const device::H3StepRow<T> row(a, sequences);
  device::for_each_row(row.rows(), stream, "h3_step", row);
}

#define SSM_INSTANTIATE(T) \
  template SSM_CUDA_API void h3_step<T>(const ssm::H3Step<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
