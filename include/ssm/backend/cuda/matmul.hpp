// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/matmul_few_rows.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda {

/// The compiled half; formula and shapes as ssm::Matmul. T: float, double. Products by cuBLASLt in
/// T, of floats as the context's MatmulPrecision says. Activations, and a bias where z is wanted,
/// are a pass of their own over c. A matrix kept in bf16 is expanded to T in each product, 10 bytes
/// of traffic a number; matmul_few_rows reads it as it is.
/// scratch   matmul_scratch_count(a) numbers: operands without a unit stride, and b_bf16 as T
/// Throws  Failure  if cuBLASLt cannot be loaded or refuses
template <class T>
SSM_CUDA_API void matmul(MatmulLibrary& library, const ssm::Matmul<T, CudaSpace>& a, T* scratch,
                         Stream stream);
template <class T>
SSM_CUDA_API Index matmul_scratch_count(const ssm::Matmul<T, CudaSpace>& a);

namespace primitive {
struct Matmul {
  template <class Ctx, DeviceScalar T>
  static void matmul(Ctx& ctx, const ssm::Matmul<T, typename Ctx::Space>& a) {
    const auto call = on_device(a);
    if (has_few_rows(call)) {
      queue(ctx, [&](Stream stream) { matmul_few_rows(call, stream); });
      return;
    }
    auto frame = ctx.workspace().frame();
    T* const scratch = frame.template tensor<T>(matmul_scratch_count(call)).data();
    queue(ctx, [&](Stream stream) {
      cuda::matmul(ctx.resources().matmul_library(), call, scratch, stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
