// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/tensor_core.cuh"

namespace ssm::cuda::device {

// Shared memory by 32-bit address: tiles of 16-bit numbers, runs of 16 bytes, copies.

__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
/// Four 8 × 8 tiles of 16-bit numbers; lane l gives the address of row l % 8 of tile l / 8.
__device__ inline void load_rows_of_tiles(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_columns_of_tiles(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline unsigned load_word(unsigned address) {
  unsigned word;
  asm volatile("ld.shared.b32 %0,[%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}
__device__ inline uint4 load_run(unsigned address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ inline void store_run(unsigned address, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0],{%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

/// The opposite of load_rows_of_tiles, or with Transposed of load_columns_of_tiles.
template <bool Transposed>
__device__ inline void store_tiles(unsigned address, unsigned a, unsigned b, unsigned c,
                                   unsigned d) {
#if __CUDA_ARCH__ >= 900
  if constexpr (Transposed) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0],{%1,%2,%3,%4};" ::"r"(address), "r"(a),
        "r"(b), "r"(c), "r"(d)
        : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0],{%1,%2,%3,%4};" ::"r"(address),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
  }
#else
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const unsigned word[4] = {a, b, c, d};
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
    if constexpr (Transposed) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const unsigned row = __shfl_sync(~0u, address, 8 * tile + 2 * q + e);
        asm volatile("st.shared.b16 [%0],%1;" ::"r"(row + 2 * g),
                     "h"(static_cast<unsigned short>(word[tile] >> 16 * e))
                     : "memory");
      }
    } else {
      const unsigned row = __shfl_sync(~0u, address, 8 * tile + g);
      asm volatile("st.shared.b32 [%0],%1;" ::"r"(row + 4 * q), "r"(word[tile]) : "memory");
    }
  }
#endif
}

/// 16 bytes, zeros where there is nothing to copy.
__device__ inline void copy_run_async(unsigned to, const void* from, bool present = true) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
__device__ inline unsigned add_halves(unsigned a, unsigned b) {
  const __half2 sum =
      __hadd2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const unsigned&>(sum);
}
__device__ inline unsigned subtract_halves(unsigned a, unsigned b) {
  const __half2 sum =
      __hsub2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const unsigned&>(sum);
}

__device__ inline unsigned multiply_halves(unsigned a, unsigned b) {
  const __half2 v =
      __hmul2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const unsigned&>(v);
}
__device__ inline unsigned multiply_add_halves(unsigned a, unsigned b, unsigned c) {
  const __half2 v =
      __hfma2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b),
              reinterpret_cast<const __half2&>(c));
  return reinterpret_cast<const unsigned&>(v);
}

/// c − a·b
__device__ inline unsigned subtract_product_halves(unsigned a, unsigned b, unsigned c) {
  const __half2 v =
      __hfma2(__hneg2(reinterpret_cast<const __half2&>(a)), reinterpret_cast<const __half2&>(b),
              reinterpret_cast<const __half2&>(c));
  return reinterpret_cast<const unsigned&>(v);
}

}  // namespace ssm::cuda::device
