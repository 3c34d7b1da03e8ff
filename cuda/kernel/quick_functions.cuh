// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/activation_functions.cuh"

namespace ssm::cuda::device {

// Functions of a few instructions, right to about 22 bits, for kernels that would wait for the
// exact ones. In double, and where a C++ compiler compiles them, they are the exact ones.

/// 1 / x
template <class W>
SSM_HOST_DEVICE W quick_reciprocal(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return W{1} / x;
}

/// 2^x
template <class W>
SSM_HOST_DEVICE W quick_exp2(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
#endif
  return std::exp2(x);
}

/// e^x
template <class W>
SSM_HOST_DEVICE W quick_exp(W x) {
  return quick_exp2(x * static_cast<W>(std::numbers::log2e));
}

/// 1 / (1 + e^−x)
template <class W>
SSM_HOST_DEVICE W quick_sigmoid(W x) {
  return quick_reciprocal(W{1} + quick_exp(-x));
}

/// ln(1 + e^x)
template <class W>
SSM_HOST_DEVICE W quick_softplus(W x) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<W, float>) {
    const float e = quick_exp(-fabsf(x));
    float logarithm;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(1 + e));
    // Near 1 the logarithm would lose the digits of a small e.
    const float series = e * (1 + e * (-0.5f + e * (0.33333333f - 0.25f * e)));
    const float rest = e < 0.0078125f ? series : 0.69314718f * logarithm;
    return fmaxf(x, 0.0f) + rest;
  }
#endif
  return activate<W>(ActivationKind::softplus, x);
}

/// act(x), of none or silu.
template <class W>
SSM_HOST_DEVICE W quick_silu_or_none(ActivationKind kind, W x) {
  return kind == ActivationKind::silu ? x * quick_sigmoid(x) : x;
}

/// act'(x), of none or silu.
template <class W>
SSM_HOST_DEVICE W quick_silu_or_none_slope(ActivationKind kind, W x) {
  if (kind != ActivationKind::silu) return W{1};
  const W share = quick_sigmoid(x);
  return share * (W{1} + x * (W{1} - share));
}

}  // namespace ssm::cuda::device
