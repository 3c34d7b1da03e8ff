// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "kernel/half_numbers.cuh"

namespace ssm::cuda::device {

// Products of four warps at once, wgmma, which only code for sm_90a has. A matrix in shared memory
// is in panels of 64 columns, whose rows of 128 bytes have their 16-byte pieces exchanged by the
// last three bits of the row; it begins at a multiple of 1024 bytes.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SSM_HAS_WARPGROUP_PRODUCTS 1
#endif

/// Where a number of a matrix of `Rows` rows is.
template <int Rows>
SSM_HOST_DEVICE constexpr int place_in_panels(int row, int column) {
  return (column / 64 * Rows + row) * 64 + ((column / 8 ^ row) % 8) * 8 + column % 8;
}
/// A matrix of panels that are `panel` bytes apart, for products; in units of 16 bytes.
__device__ inline unsigned long long describe_panels(const void* matrix, int panel) {
  const auto address = static_cast<unsigned long long>(__cvta_generic_to_shared(matrix));
  return (address & 0x3ffff) >> 4 | static_cast<unsigned long long>(panel >> 4) << 16 |
         static_cast<unsigned long long>(1024 >> 4) << 32 | 1ull << 62;
}

#define SSM_ROW(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SSM_ROWS(c, n) SSM_ROW(c, n), SSM_ROW(c, n + 1), SSM_ROW(c, n + 2), SSM_ROW(c, n + 3)
#define SSM_SUMS_1(c) SSM_ROW(c, 0)
#define SSM_SUMS_4(c) SSM_ROWS(c, 0)
#define SSM_SUMS_8(c) SSM_ROWS(c, 0), SSM_ROWS(c, 4)
#define SSM_SUMS_12(c) SSM_ROWS(c, 0), SSM_ROWS(c, 4), SSM_ROWS(c, 8)
#define SSM_SUMS_16(c) SSM_ROWS(c, 0), SSM_ROWS(c, 4), SSM_ROWS(c, 8), SSM_ROWS(c, 12)
#define SSM_NAMES_1 "%0,%1,%2,%3"
#define SSM_NAMES_4          \
  "%0,%1,%2,%3,%4,%5,%6,%7," \
  "%8,%9,%10,%11,%12,%13,%14,%15"
#define SSM_NAMES_8                  \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"
#define SSM_NAMES_12                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39," \
  "%40,%41,%42,%43,%44,%45,%46,%47"
#define SSM_NAMES_16                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39," \
  "%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55," \
  "%56,%57,%58,%59,%60,%61,%62,%63"
/// c += a · b of 8·N columns or, unless `adds`, c = a · b. Behind the sums are b, adds, and the
/// operands of a, which `left` names.
#define SSM_MULTIPLY(N, columns, type, b_name, adds_name, left, order, ...)         \
  asm volatile("{.reg .pred p; setp.ne.b32 p," adds_name                            \
               ",0; "                                                               \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type \
               " {" SSM_NAMES_##N "}," left "," b_name ",p,1,1," order ";}"         \
               : SSM_SUMS_##N(c)                                                    \
               : "l"(b), "r"(adds ? 1 : 0), __VA_ARGS__)
#define SSM_MULTIPLY_SHARED(N, columns, type, b_name, adds_name, a_name) \
  SSM_MULTIPLY(N, columns, type, b_name, adds_name, a_name, "0,0", "l"(a))
#define SSM_MULTIPLY_REGISTERS(N, columns, type, b_name, adds_name, left, order)                  \
  SSM_MULTIPLY(N, columns, type, b_name, adds_name, left, order, "r"(a[0]), "r"(a[1]), "r"(a[2]), \
               "r"(a[3]))

/// c += a · b or, unless `adds`, c = a · b; a [64, 16] and b [16, 8·N] in shared memory, both with
/// rows of the inner axis contiguous.
template <class T, int N>
__device__ void multiply_shared(float (&c)[N][4], unsigned long long a, unsigned long long b,
                                bool adds) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 4 || N == 8 || N == 16);
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  if constexpr (N == 4 && is_bf16) SSM_MULTIPLY_SHARED(4, "32", "bf16", "%16", "%17", "%18");
  if constexpr (N == 4 && !is_bf16) SSM_MULTIPLY_SHARED(4, "32", "f16", "%16", "%17", "%18");
  if constexpr (N == 8 && is_bf16) SSM_MULTIPLY_SHARED(8, "64", "bf16", "%32", "%33", "%34");
  if constexpr (N == 8 && !is_bf16) SSM_MULTIPLY_SHARED(8, "64", "f16", "%32", "%33", "%34");
  if constexpr (N == 16 && is_bf16) SSM_MULTIPLY_SHARED(16, "128", "bf16", "%64", "%65", "%66");
  if constexpr (N == 16 && !is_bf16) SSM_MULTIPLY_SHARED(16, "128", "f16", "%64", "%65", "%66");
#endif
}

/// The same of b [16, 128] with its rows contiguous.
template <class T>
__device__ void multiply_shared_rows(float (&c)[16][4], unsigned long long a, unsigned long long b,
                                     bool adds) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  if constexpr (std::is_same_v<T, BFloat16>)
    SSM_MULTIPLY(16, "128", "bf16", "%64", "%65", "%66", "0,1", "l"(a));
  else
    SSM_MULTIPLY(16, "128", "f16", "%64", "%65", "%66", "0,1", "l"(a));
#endif
}

/// c += a · b; a [64, 16] in registers, b [16, 8·N] in shared memory with its columns contiguous.
template <class T, int N>
__device__ void multiply_shared(float (&c)[N][4], const unsigned (&a)[4], unsigned long long b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 8 || N == 16);
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  constexpr bool adds = true;
  if constexpr (N == 8 && is_bf16)
    SSM_MULTIPLY_REGISTERS(8, "64", "bf16", "%32", "%33", "{%34,%35,%36,%37}", "1");
  if constexpr (N == 8 && !is_bf16)
    SSM_MULTIPLY_REGISTERS(8, "64", "f16", "%32", "%33", "{%34,%35,%36,%37}", "1");
  if constexpr (N == 16 && is_bf16)
    SSM_MULTIPLY_REGISTERS(16, "128", "bf16", "%64", "%65", "{%66,%67,%68,%69}", "1");
  if constexpr (N == 16 && !is_bf16)
    SSM_MULTIPLY_REGISTERS(16, "128", "f16", "%64", "%65", "{%66,%67,%68,%69}", "1");
#endif
}
/// The same of b [16, 64] with its rows contiguous.
template <class T>
__device__ void multiply_shared_rows(float (&c)[8][4], const unsigned (&a)[4],
                                     unsigned long long b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  constexpr bool adds = true;
  if constexpr (std::is_same_v<T, BFloat16>)
    SSM_MULTIPLY_REGISTERS(8, "64", "bf16", "%32", "%33", "{%34,%35,%36,%37}", "0");
  else
    SSM_MULTIPLY_REGISTERS(8, "64", "f16", "%32", "%33", "{%34,%35,%36,%37}", "0");
#endif
}

/// c += aᵀ · b or, unless `adds`, c = aᵀ · b; a [16, 64] and b [16, 8·N] in shared memory, both
/// with their columns contiguous.
template <class T, int N>
__device__ void multiply_both_transposed(float (&c)[N][4], unsigned long long a,
                                         unsigned long long b, bool adds) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 4 || N == 8 || N == 12);
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  if constexpr (N == 4 && is_bf16)
    SSM_MULTIPLY(4, "32", "bf16", "%16", "%17", "%18", "1,1", "l"(a));
  if constexpr (N == 4 && !is_bf16)
    SSM_MULTIPLY(4, "32", "f16", "%16", "%17", "%18", "1,1", "l"(a));
  if constexpr (N == 8 && is_bf16)
    SSM_MULTIPLY(8, "64", "bf16", "%32", "%33", "%34", "1,1", "l"(a));
  if constexpr (N == 8 && !is_bf16)
    SSM_MULTIPLY(8, "64", "f16", "%32", "%33", "%34", "1,1", "l"(a));
  if constexpr (N == 12 && is_bf16)
    SSM_MULTIPLY(12, "96", "bf16", "%48", "%49", "%50", "1,1", "l"(a));
  if constexpr (N == 12 && !is_bf16)
    SSM_MULTIPLY(12, "96", "f16", "%48", "%49", "%50", "1,1", "l"(a));
#endif
}
/// The same of b [16, 8] with its rows of the inner axis contiguous.
template <class T>
__device__ void multiply_left_transposed(float (&c)[1][4], unsigned long long a,
                                         unsigned long long b, bool adds) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  if constexpr (std::is_same_v<T, BFloat16>)
    SSM_MULTIPLY(1, "8", "bf16", "%4", "%5", "%6", "1,0", "l"(a));
  else
    SSM_MULTIPLY(1, "8", "f16", "%4", "%5", "%6", "1,0", "l"(a));
#endif
}
#undef SSM_MULTIPLY_REGISTERS
#undef SSM_MULTIPLY_SHARED
#undef SSM_MULTIPLY
#undef SSM_NAMES_16
#undef SSM_NAMES_12
#undef SSM_NAMES_8
#undef SSM_NAMES_4
#undef SSM_NAMES_1
#undef SSM_SUMS_16
#undef SSM_SUMS_12
#undef SSM_SUMS_8
#undef SSM_SUMS_4
#undef SSM_SUMS_1
#undef SSM_ROWS
#undef SSM_ROW

/// A number that all lanes of a warp have, so that the compiler knows it: descriptions of matrices
/// that follow from it stay in the registers that a warp shares, where products read them.
__device__ inline int alike_in_warp(int x) { return __shfl_sync(0xffffffffu, x, 0); }

/// Before products whose registers were written, and behind them.
__device__ inline void begin_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void end_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Keeps the compiler from moving uses of sums across what surrounds it.
template <int N>
__device__ void hold(float (&c)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
}
/// Waits until at most the last `Count` groups of products have not finished.
template <int Count>
__device__ void wait_for_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Count) : "memory");
#endif
}
/// What this thread wrote or copied to shared memory becomes visible to products.
__device__ inline void show_copies_to_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace ssm::cuda::device
