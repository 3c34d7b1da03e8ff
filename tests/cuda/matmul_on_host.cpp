// SPDX-License-Identifier: Apache-2.0
// In place of cuBLASLt, where there is no device.
#include "ssm/backend/cuda/matmul.hpp"
#include "ssm/backend/reference.hpp"

namespace ssm::cuda {

class MatmulLibrary {};
MatmulLibrary* create_matmul_library(MatmulPrecision) { return new MatmulLibrary(); }
void destroy_matmul_library(MatmulLibrary* library) noexcept { delete library; }
void keep_biases(MatmulLibrary&) {}

// Loops make one product behind the other: no block could wait for another.
class RowExchange {};
RowExchange* create_row_exchange(Stream) { return new RowExchange(); }
void destroy_row_exchange(RowExchange* exchange) noexcept { delete exchange; }
template <class T>
bool matmul_row_pair(RowExchange&, const ssm::Normalization<T, CudaSpace>*,
                     const ssm::Matmul<T, CudaSpace>&, const ssm::Matmul<T, CudaSpace>&, bool,
                     Stream) {
  return false;
}
#define SSM_INSTANTIATE(T)                                                                \
  template bool matmul_row_pair<T>(RowExchange&, const ssm::Normalization<T, CudaSpace>*, \
                                   const ssm::Matmul<T, CudaSpace>&,                      \
                                   const ssm::Matmul<T, CudaSpace>&, bool, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

namespace {
/// One for all calls: products allocate nothing, as on a device.
Context<Reference>& reference() {
  static thread_local Context<Reference> ctx;
  return ctx;
}
}  // namespace

template <class T>
void matmul(MatmulLibrary&, std::span<const ssm::Matmul<T, CudaSpace>> products, void*, Stream) {
  for (const auto& a : products)
    ssm::matmul(reference(), std::bit_cast<ssm::Matmul<T, HostSpace>>(a));
}
/// As on a device, a matrix that is kept in another scalar in T.
template <class T>
std::size_t matmul_scratch_bytes(const ssm::Matmul<T, CudaSpace>& a) {
  return static_cast<std::size_t>(a.b_bf16.size() + a.b_f16.size() + a.b_int8.size()) * sizeof(T);
}

template <class T>
void weight_gradient(MatmulLibrary&, const ssm::WeightGradient<T, CudaSpace>& a, void*, Stream) {
  ssm::weight_gradient(reference(), std::bit_cast<ssm::WeightGradient<T, HostSpace>>(a));
}
template <class T>
std::size_t weight_gradient_scratch_bytes(const ssm::WeightGradient<T, CudaSpace>&) {
  return 0;
}
/// Each has a kernel of its own.
template <class T>
bool weight_gradients(const ssm::WeightGradient<T, CudaSpace>&,
                      const ssm::WeightGradient<T, CudaSpace>&, float*, Stream) {
  return false;
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API void matmul<T>(MatmulLibrary&, std::span<const ssm::Matmul<T, CudaSpace>>, \
                                       void*, Stream);                                             \
  template SSM_CUDA_API std::size_t matmul_scratch_bytes<T>(const ssm::Matmul<T, CudaSpace>&);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE
template <class T>
bool sloped_matmul(MatmulLibrary&, const ssm::SlopedMatmul<T, CudaSpace>& a, void*, Stream) {
  if (a.activation != ActivationKind::gelu_tanh) return false;
  ssm::sloped_matmul(reference(), std::bit_cast<ssm::SlopedMatmul<T, HostSpace>>(a));
  return true;
}
template <class T>
std::size_t sloped_matmul_scratch_bytes(const ssm::SlopedMatmul<T, CudaSpace>&) {
  return 0;
}
/// A pass behind the product does it.
template <class T>
bool sloped_matmul_again(const ssm::SlopedMatmulAgain<T, CudaSpace>&, Wide<T>*, Stream) {
  return false;
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API bool sloped_matmul<T>(                                                     \
      MatmulLibrary&, const ssm::SlopedMatmul<T, CudaSpace>&, void*, Stream);                      \
  template SSM_CUDA_API std::size_t sloped_matmul_scratch_bytes<T>(                                \
      const ssm::SlopedMatmul<T, CudaSpace>&);                                                     \
  template SSM_CUDA_API bool sloped_matmul_again<T>(const ssm::SlopedMatmulAgain<T, CudaSpace>&,   \
                                                    Wide<T>*, Stream);                             \
  template SSM_CUDA_API bool weight_gradients<T>(const ssm::WeightGradient<T, CudaSpace>&,         \
                                                 const ssm::WeightGradient<T, CudaSpace>&, float*, \
                                                 Stream);                                          \
  template SSM_CUDA_API void weight_gradient<T>(                                                   \
      MatmulLibrary&, const ssm::WeightGradient<T, CudaSpace>&, void*, Stream);                    \
  template SSM_CUDA_API std::size_t weight_gradient_scratch_bytes<T>(                              \
      const ssm::WeightGradient<T, CudaSpace>&);
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
