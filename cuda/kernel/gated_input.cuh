// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include "kernel/tensor_core.cuh"

namespace ssm::cuda::device {

// A gated input is gate · x, rounded once. Where the gate is read as well, x is the quotient. Where
// the gate is too small to divide by, x is stored in place of the product. The mixer's bf16 tape
// holds its inputs in this form: the backward pass then forms states from the inputs that the
// forward pass used, not from products of a rounded x.

inline constexpr float kSmallestDivisor = 0x1p-100f;

/// Of each pair, all bits where the gate is too small to divide by.
__device__ inline unsigned small_mask(unsigned gate) {
  return __hlt2_mask(__habs2(reinterpret_cast<const __nv_bfloat162&>(gate)),
                     __float2bfloat162_rn(kSmallestDivisor));
}
__device__ inline uint4 select_small(uint4 gate, uint4 where_small, uint4 elsewhere) {
  const auto one = [](unsigned g, unsigned a, unsigned b) {
    const unsigned small = small_mask(g);
    return (a & small) | (b & ~small);
  };
  return {one(gate.x, where_small.x, elsewhere.x), one(gate.y, where_small.y, elsewhere.y),
          one(gate.z, where_small.z, elsewhere.z), one(gate.w, where_small.w, elsewhere.w)};
}

/// The smallest magnitudes of gates, one for each half of the pairs.
class SmallestGate {
 public:
  __device__ void add(uint4 gates) {
    for (const unsigned pair : {gates.x, gates.y, gates.z, gates.w})
      least_ = __hmin2(least_, __habs2(reinterpret_cast<const __nv_bfloat162&>(pair)));
  }
  __device__ bool is_divisor() const {
    return !(fminf(__low2float(least_), __high2float(least_)) < kSmallestDivisor);
  }

 private:
  __nv_bfloat162 least_ = __float2bfloat162_rn(1.f);
};

/// x of a gated input; with Divisible no gate is too small to divide by.
template <bool Divisible>
__device__ inline float ungate(float gated, float gate) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(inverse) : "f"(gate));
  return !Divisible && fabsf(gate) < kSmallestDivisor ? gated : gated * inverse;
}

}  // namespace ssm::cuda::device
