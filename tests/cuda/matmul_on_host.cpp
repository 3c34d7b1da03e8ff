// SPDX-License-Identifier: Apache-2.0
// In place of cuBLASLt, where there is no device.
#include "ssm/backend/cuda/matmul.hpp"
#include "ssm/backend/reference/matmul.hpp"

namespace ssm::cuda {

class MatmulLibrary {};
MatmulLibrary* create_matmul_library(MatmulPrecision) { return new MatmulLibrary(); }
void destroy_matmul_library(MatmulLibrary* library) noexcept { delete library; }

namespace {
struct OnHost : reference::Matmul {
  using Space = HostSpace;
  struct Resources {};
};
}  // namespace

template <class T>
void matmul(MatmulLibrary&, const ssm::Matmul<T, CudaSpace>& a, T*, Stream) {
  Context<OnHost> ctx;
  OnHost::matmul(ctx, std::bit_cast<ssm::Matmul<T, HostSpace>>(a));
}
/// As on a device, a bf16 matrix in T.
template <class T>
Index matmul_scratch_count(const ssm::Matmul<T, CudaSpace>& a) {
  return a.b_bf16 ? a.b_bf16.size() : 0;
}

#define SSM_INSTANTIATE(T)                                                                   \
  template SSM_CUDA_API void matmul<T>(MatmulLibrary&, const ssm::Matmul<T, CudaSpace>&, T*, \
                                       Stream);                                              \
  template SSM_CUDA_API Index matmul_scratch_count<T>(const ssm::Matmul<T, CudaSpace>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
