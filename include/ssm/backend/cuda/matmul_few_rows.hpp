// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda {

/// The product of at most this many rows reads a matrix kept in bf16 as it is. More rows do enough
/// arithmetic to pay for expanding it.
inline constexpr Index matmul_few_rows_limit = 16;

/// The compiled half; formula and shapes as ssm::Matmul, for a step's few rows by weights kept in
/// bf16: they are read once for every 8 rows, 2 bytes each, products and sums are in T. T: float,
/// double. b_bf16 [K, N] has stride 1 along K, as the transpose of a layer's weight has; a_sum is
/// not given.
/// Cost    2·K·N bytes for every 8 rows
template <class T>
SSM_CUDA_API void matmul_few_rows(const ssm::Matmul<T, CudaSpace>& a, Stream stream);

/// Whether matmul_few_rows computes it: bf16 weights with stride 1 along K, no a_sum, few rows.
template <class T>
bool has_few_rows(const ssm::Matmul<T, CudaSpace>& a) {
  return a.b_bf16 && !a.a_sum && a.c.extent(0) <= matmul_few_rows_limit &&
         (a.b_bf16.stride(0) == 1 || a.b_bf16.extent(0) == 1);
}

}  // namespace ssm::cuda
