// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/parallel.cuh"
#include "ssm/core/scalar.hpp"

namespace ssm::cuda::device {

/// A number in the scalar of arithmetic.
template <class T>
SSM_HOST_DEVICE Wide<T> widened(T number) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, Float16>) {
    float wide;
    asm("cvt.f32.f16 %0,%1;" : "=f"(wide) : "h"(number.bits()));
    return wide;
  }
#endif
  return static_cast<Wide<T>>(number);
}

/// A number in T, of half types rounded to nearest, ties to even.
template <class T>
SSM_HOST_DEVICE T narrowed(Wide<T> number) {
#ifdef __CUDA_ARCH__
  unsigned short bits;
  if constexpr (std::is_same_v<T, Float16>) {
    asm("cvt.rn.f16.f32 %0,%1;" : "=h"(bits) : "f"(number));
    return T::from_bits(bits);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16.f32 %0,%1;" : "=h"(bits) : "f"(number));
    return T::from_bits(bits);
  }
#endif
  return static_cast<T>(number);
}

/// Between any two scalars, half types by way of float.
template <class To, class From>
SSM_HOST_DEVICE To converted(From number) {
  if constexpr (std::is_same_v<To, From>)
    return number;
  else
    return narrowed<To>(static_cast<Wide<To>>(widened(number)));
}

}  // namespace ssm::cuda::device
