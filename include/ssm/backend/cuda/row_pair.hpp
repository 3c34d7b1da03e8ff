// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/device.hpp"
#include "ssm/backend/cuda/matmul_one_row.hpp"

namespace ssm::cuda {

/// The longest rows that a product of a pair reads: the first, and the second.
inline constexpr Index row_pair_depth = 1024;
inline constexpr Index row_pair_hidden = row_exchange_numbers;

/// The compiled half: a product of one row and the one that reads what it writes, as matmul_one_row
/// makes each, in one kernel: weights of the second are on their way while the first is made. What
/// lies between, first.c, is not written.
/// The first applies gelu_tanh.
/// norm       how the first one's row is normalized before, or null; its y is not written
/// weights_stay   as of matmul_one_row, and no less of the norm's parameters
/// Returns false for a device that has no room for all blocks at once, and does nothing.
/// T: float, half types.
template <class T>
SSM_CUDA_API bool matmul_row_pair(RowExchange& exchange,
                                  const ssm::Normalization<T, CudaSpace>* norm,
                                  const ssm::Matmul<T, CudaSpace>& first,
                                  const ssm::Matmul<T, CudaSpace>& second, bool weights_stay,
                                  Stream stream);

/// Whether matmul_row_pair takes them, as far as their operands say.
template <class T>
bool is_row_pair(const ssm::Matmul<T, CudaSpace>& first, const ssm::Matmul<T, CudaSpace>& second) {
  const auto is_one = [](const auto& a) {
    return has_few_rows(a) && has_one_row<T>(std::span(&a, 1));
  };
  return is_one(first) && is_one(second) && first.activation == ActivationKind::gelu_tanh &&
         second.activation == ActivationKind::none && !first.residual &&
         first.c.data() == second.a.data() && first.a.extent(1) <= row_pair_depth &&
         second.a.extent(1) <= row_pair_hidden &&
         detail::weight_form(first) == detail::weight_form(second);
}

}  // namespace ssm::cuda
