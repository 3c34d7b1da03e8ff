// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <ssm/backend/cuda/launch.hpp>

#include "kernel/async_copies.cuh"
#include "kernel/prefetch.cuh"

namespace ssm::cuda::device {

// Complex arithmetic, the same on host and device -------------------------------------------------

__host__ __device__ constexpr float2 multiply(float2 a, float2 b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}
__host__ __device__ constexpr float2 multiply_add(float2 a, float2 b, float2 c) {
  return {(c.x - a.y * b.y) + a.x * b.x,
          (c.y + a.y * b.x) + a.x * b.y};  // two fused operations each
}
__host__ __device__ constexpr float2 conjugate(float2 a) { return {a.x, -a.y}; }
__host__ __device__ constexpr double2 multiply(double2 a, double2 b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}

// 16-bit pairs ------------------------------------------------------------------------------------

__device__ inline unsigned pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const unsigned&>(pair);
}
__device__ inline unsigned pack_half(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const unsigned&>(pair);
}
__device__ inline float2 unpack_half(unsigned pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}
__device__ inline float low_of(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

/// A pair of neighbors in the half type T.
template <class T>
__device__ unsigned pack(float low, float high) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return pack_bf16(low, high);
  else
    return pack_half(low, high);
}
template <class T>
__device__ float2 unpack(unsigned pair) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return {low_of(pair), high_of(pair)};
  else
    return unpack_half(pair);
}

__device__ inline unsigned multiply_bf16(unsigned a, unsigned b) {
  const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(a),
                                         reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const unsigned&>(product);
}
/// Products of eight pairs of bf16 numbers, rounded once.
__device__ inline uint4 multiply_words(uint4 a, uint4 b) {
  return {multiply_bf16(a.x, b.x), multiply_bf16(a.y, b.y), multiply_bf16(a.z, b.z),
          multiply_bf16(a.w, b.w)};
}

/// Writes (low, high) as `Terms` bf16 pairs whose sum is the value to 8, 16 or 24 bits.
template <int Terms>
__device__ inline void split_bf16(float low, float high, unsigned (&pairs)[Terms]) {
#pragma unroll
  for (int t = 0; t < Terms; ++t) {
    pairs[t] = pack_bf16(low, high);
    low -= low_of(pairs[t]), high -= high_of(pairs[t]);
  }
}

// Eight neighboring positions ---------------------------------------------------------------------

template <class T>
inline constexpr int operand_terms = 2;  // bf16 terms that represent a scalar of this type
template <>
inline constexpr int operand_terms<BFloat16> = 1;
template <>
inline constexpr int operand_terms<float> = 3;

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(BFloat16 v) { return __uint_as_float(unsigned(v.bits()) << 16); }
__device__ inline float to_float(Float16 v) { return __half2float(__ushort_as_half(v.bits())); }
__device__ inline void from_float(float v, float& out) { out = v; }
__device__ inline void from_float(float v, BFloat16& out) {
  out = BFloat16::from_bits(__bfloat16_as_ushort(__float2bfloat16_rn(v)));
}
__device__ inline void from_float(float v, Float16& out) {
  out = Float16::from_bits(__half_as_ushort(__float2half_rn(v)));
}

/// The floats of eight scalars as they lie in memory.
template <class T>
__device__ inline void widen(const uint4 (&raw)[sizeof(T) / 2], float (&v)[8]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      v[4 * k] = __uint_as_float(raw[k].x), v[4 * k + 1] = __uint_as_float(raw[k].y);
      v[4 * k + 2] = __uint_as_float(raw[k].z), v[4 * k + 3] = __uint_as_float(raw[k].w);
    }
  } else {
    const unsigned word[4] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      v[2 * j] = to_float(T::from_bits(static_cast<unsigned short>(word[j])));
      v[2 * j + 1] = to_float(T::from_bits(static_cast<unsigned short>(word[j] >> 16)));
    }
  }
}

/// Eight scalars at p as they lie in memory, those at `count` and beyond zero; no alignment needed.
template <class T>
__device__ inline void load_guarded(const T* p, int count, uint4 (&raw)[sizeof(T) / 2]) {
  unsigned word[2 * sizeof(T)];
#pragma unroll
  for (int i = 0; i < static_cast<int>(2 * sizeof(T)); ++i) {
    if constexpr (sizeof(T) == 4) {
      word[i] = i < count ? __float_as_uint(p[i]) : 0u;
    } else {
      const unsigned low = 2 * i < count ? p[2 * i].bits() : 0u,
                     high = 2 * i + 1 < count ? p[2 * i + 1].bits() : 0u;
      word[i] = low | high << 16;
    }
  }
#pragma unroll
  for (int k = 0; k < static_cast<int>(sizeof(T) / 2); ++k)
    raw[k] = {word[4 * k], word[4 * k + 1], word[4 * k + 2], word[4 * k + 3]};
}

/// Reads positions 0 … 7 of `p` as floats; those at `count` and beyond are zero. `full`: all are
/// there, and p is 16-byte aligned.
template <class T>
__device__ inline void load_eight(const T* p, int count, bool full, float (&v)[8]) {
  uint4 raw[sizeof(T) / 2];
  if (full) {
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(T) / 2); ++k)
      raw[k] = __ldg(reinterpret_cast<const uint4*>(p) + k);
  } else {
    load_guarded(p, count, raw);
  }
  widen<T>(raw, v);
}

/// Writes positions 0 … min(count, 8) − 1.
template <class T>
__device__ inline void store_eight(T* p, int count, bool full, const float (&v)[8]) {
  if (full) {
    if constexpr (sizeof(T) == 4) {
      reinterpret_cast<float4*>(p)[0] = {v[0], v[1], v[2], v[3]};
      reinterpret_cast<float4*>(p)[1] = {v[4], v[5], v[6], v[7]};
    } else {
      unsigned word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        T low, high;
        from_float(v[2 * j], low);
        from_float(v[2 * j + 1], high);
        word[j] = unsigned(low.bits()) | unsigned(high.bits()) << 16;
      }
      *reinterpret_cast<uint4*>(p) = {word[0], word[1], word[2], word[3]};
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) from_float(v[i], p[i]);
  }
}

/// store_eight of 16-bit numbers as they lie in memory.
template <class T>
__device__ inline void store_words(T* p, int count, bool full, uint4 words) {
  static_assert(sizeof(T) == 2);
  if (full) {
    *reinterpret_cast<uint4*>(p) = words;
    return;
  }
  const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) p[i] = T::from_bits(static_cast<unsigned short>(word[i / 2] >> 16 * (i % 2)));
}

/// True where 16-byte accesses at p and at every multiple of 8 positions from it are aligned.
template <class T>
__device__ inline bool is_aligned(const T* p) {
  return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// Tensor cores ------------------------------------------------------------------------------------

/// c += a · b for a 16 × 16 by 16 × 8 tile, bf16 operands, float sums.
__device__ inline void multiply_tile(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                     unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same of half operands.
__device__ inline void multiply_tile_half(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                          unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// copy_async_or_zero of one number.
__device__ inline void copy_number_or_zero(float* to, const float* from, bool is_there) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(is_there ? 4 : 0)
               : "memory");
}
/// copy_async of one complex number.
__device__ inline void copy_complex_async(float2* to, const float2* from) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],8;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Four 8 × 8 tiles of 16-bit numbers; lane l gives the address of row l % 8 of tile l / 8.
__device__ inline void load_tiles(unsigned (&r)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

/// Four transposed 8 × 8 tiles of 16-bit numbers; lane l gives the address of row l % 8 of tile
/// l / 8.
__device__ inline void load_transposed(unsigned (&r)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

/// Writes four 8 × 8 tiles; addresses as load_tiles.
__device__ inline void store_tiles(const unsigned (&r)[4], void* row) {
#if __CUDA_ARCH__ >= 900
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0],{%1,%2,%3,%4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#endif
}

}  // namespace ssm::cuda::device
