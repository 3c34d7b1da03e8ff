// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/matmul_few_rows.hpp"

namespace ssm::cuda::device {

/// Whether weights in W are whole numbers, with a scale for each column of the product.
template <class W>
inline constexpr bool has_scale = std::is_same_v<W, std::int8_t>;

struct NoScale {};
/// The scales of columns; of other weights nothing.
template <class W>
using ColumnScale = std::conditional_t<has_scale<W>, Operand<const float, 1>, NoScale>;
template <class W, class T>
ColumnScale<W> column_scale(const ssm::Matmul<T, CudaSpace>& call) {
  if constexpr (has_scale<W>)
    return operand(call.b_scale);
  else
    return {};
}

/// A sum times its column's scale, rounded by itself: the same bits in every kernel.
template <class S>
SSM_HOST_DEVICE S scaled_sum(S sum, float scale) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<S, float>)
    return __fmul_rn(sum, scale);
  else
    return __dmul_rn(sum, static_cast<double>(scale));
#else
  return sum * static_cast<S>(scale);
#endif
}

/// The matrix of a product that is kept in W.
template <class W, class T>
View<const W, 2, CudaSpace> weights_in(const ssm::Matmul<T, CudaSpace>& call) {
  if constexpr (has_scale<W>) {
    return call.b_int8;
  } else {
    View<const W, 2, CudaSpace> weights;
    if constexpr (std::is_same_v<W, T>) weights = call.b;
    if constexpr (std::is_same_v<W, BFloat16>)
      if (!weights) weights = call.b_bf16;
    if constexpr (std::is_same_v<W, Float16>)
      if (!weights) weights = call.b_f16;
    return weights;
  }
}

/// f(std::type_identity<W>()), W what the matrix of a product of few rows is kept in.
template <class T, class F>
void with_weight_scalar(const ssm::Matmul<T, CudaSpace>& call, F f) {
  if (call.b_int8) return f(std::type_identity<std::int8_t>());
  if (call.b_f16) return f(std::type_identity<Float16>());
  if constexpr (reads_full_weights<T>)
    if (call.b) return f(std::type_identity<T>());
  f(std::type_identity<BFloat16>());
}

/// An entry of a kept matrix in T; whole numbers times their scale, where there is one.
template <class T, class W>
struct KeptNumber {
  Operand<const W, 2> numbers;
  Operand<const float, 1> scale;

  SSM_DEVICE T operator()(Index k, Index n) const {
    if constexpr (has_scale<W>)
      return narrowed<T>(scaled_sum(static_cast<Wide<T>>(numbers(k, n)), scale ? scale(n) : 1.0F));
    else
      return converted<T>(numbers(k, n));
  }
};

}  // namespace ssm::cuda::device
