// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/core/weight.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda {

/// The product of at most this many rows reads a matrix kept in 16 or 8 bits as it is. More rows do
/// enough arithmetic to pay for expanding it, or for tensor cores.
inline constexpr Index matmul_few_rows_limit = 16;

/// The scalars whose own b it reads too.
template <class T>
inline constexpr bool reads_full_weights = HalfStorage<T> || std::is_same_v<T, float>;

/// The compiled half; formula and shapes as ssm::Matmul, for a step's few rows by b_bf16, b_f16 or
/// b_int8, or by the b of floats and half types: weights are read once for every 8 rows, products
/// and sums are in Wide<T>. A sum by whole numbers is multiplied by its column's scale. T: float,
/// double, half types. The matrix [K, N] has stride 1 along K, as the transpose of a layer's weight
/// has; a_sum is not given.
/// One kernel makes up to products_a_kernel products that have_few_rows together.
/// Cost    K·N weights read for every 8 rows
template <class T>
SSM_CUDA_API void matmul_few_rows(std::span<const ssm::Matmul<T, CudaSpace>> products,
                                  Stream stream);
inline constexpr std::size_t products_a_kernel = 8;

/// Whether matmul_few_rows computes it: weights that it reads with stride 1 along K, no a_sum, few
/// rows.
template <class T>
bool has_few_rows(const ssm::Matmul<T, CudaSpace>& a) {
  const auto is_read = [](const auto& b) { return b && (b.stride(0) == 1 || b.extent(0) == 1); };
  return (is_read(a.b_bf16) || is_read(a.b_f16) || is_read(a.b_int8) ||
          (reads_full_weights<T> && is_read(a.b))) &&
         !a.a_sum && a.c.extent(0) <= matmul_few_rows_limit;
}

namespace detail {
/// What the matrix of a product is kept in.
template <class T>
WeightForm weight_form(const ssm::Matmul<T, CudaSpace>& a) {
  return a.b_bf16   ? WeightForm::bf16
         : a.b_f16  ? WeightForm::f16
         : a.b_int8 ? WeightForm::int8
                    : WeightForm::full;
}
/// f(the matrix of a product), in whichever form it is.
template <class T, class F>
auto with_weights(const ssm::Matmul<T, CudaSpace>& a, F f) {
  switch (weight_form(a)) {
    case WeightForm::bf16:
      return f(a.b_bf16);
    case WeightForm::f16:
      return f(a.b_f16);
    case WeightForm::int8:
      return f(a.b_int8);
    default:
      return f(a.b);
  }
}
}  // namespace detail

/// Whether one kernel makes these products: as many rows and as long sums of each, by weights in
/// one scalar.
template <class T>
bool have_few_rows(std::span<const ssm::Matmul<T, CudaSpace>> products) {
  return std::all_of(products.begin(), products.end(), [&](const auto& a) {
    const auto& first = products.front();
    return has_few_rows(a) && a.a.extent(0) == first.a.extent(0) &&
           a.a.extent(1) == first.a.extent(1) &&
           detail::weight_form(a) == detail::weight_form(first);
  });
}

}  // namespace ssm::cuda
