// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda {

/// The product of at most this many rows reads a matrix kept in 16 bits as it is. More rows do
/// enough arithmetic to pay for expanding it, or for tensor cores.
inline constexpr Index matmul_few_rows_limit = 16;

/// The compiled half; formula and shapes as ssm::Matmul, for a step's few rows by weights of 16
/// bits, b_bf16 or the b of a half type: they are read once for every 8 rows, products and sums are
/// in Wide<T>. T: float, double, half types. The matrix [K, N] has stride 1 along K, as the
/// transpose of a layer's weight has; a_sum is not given.
/// Cost    2·K·N bytes for every 8 rows
template <class T>
SSM_CUDA_API void matmul_few_rows(const ssm::Matmul<T, CudaSpace>& a, Stream stream);

/// Whether matmul_few_rows computes it: weights of 16 bits with stride 1 along K, no a_sum, few
/// rows.
template <class T>
bool has_few_rows(const ssm::Matmul<T, CudaSpace>& a) {
  const auto is_read = [](const auto& b) { return b && (b.stride(0) == 1 || b.extent(0) == 1); };
  return (is_read(a.b_bf16) || (HalfStorage<T> && is_read(a.b))) && !a.a_sum &&
         a.c.extent(0) <= matmul_few_rows_limit;
}

}  // namespace ssm::cuda
