// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "kernel/half_numbers.cuh"

namespace ssm::cuda::device {

// Products of four warps at once, wgmma, which only code for sm_90a has: c += a · b of float sums,
// a [64, 16] in registers, b in shared memory. A matrix there is in panels of 64 columns, whose
// rows of 128 bytes have their 16-byte pieces exchanged by the last three bits of the row; it
// begins at a multiple of 1024 bytes.
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

#define SSM_ROW(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SSM_ROWS(n) SSM_ROW(n), SSM_ROW(n + 1), SSM_ROW(n + 2), SSM_ROW(n + 3)
#define SSM_NAMES_32                                                                           \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
  "%25,%26,%27,%28,%29,%30,%31"
#define SSM_NAMES_64                                                              \
  SSM_NAMES_32                                                                    \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50," \
  "%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SSM_MULTIPLY(columns, type, names, others, order, ...)                               \
  asm volatile("{.reg .pred p; setp.ne.b32 p,1,0; wgmma.mma_async.sync.aligned.m64n" columns \
               "k16.f32." type "." type " {" names "}," others ",p,1,1," order ";}"          \
               : __VA_ARGS__                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define SSM_MULTIPLY_64(type, order) \
  SSM_MULTIPLY("64", type, SSM_NAMES_32, "{%32,%33,%34,%35},%36", order, SSM_ROWS(0), SSM_ROWS(4))
#define SSM_MULTIPLY_128(type, order)                                                  \
  SSM_MULTIPLY("128", type, SSM_NAMES_64, "{%64,%65,%66,%67},%68", order, SSM_ROWS(0), \
               SSM_ROWS(4), SSM_ROWS(8), SSM_ROWS(12))

/// c += a · b of 8·N columns; b has 16 rows, or where `Turned` 8·N rows of 16 columns.
template <class T, bool Turned, int N>
__device__ void multiply_registers(float (&c)[N][4], const unsigned (&a)[4], unsigned long long b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 8 || (N == 16 && !Turned));
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  if constexpr (N == 8 && Turned && is_bf16) SSM_MULTIPLY_64("bf16", "0");
  if constexpr (N == 8 && Turned && !is_bf16) SSM_MULTIPLY_64("f16", "0");
  if constexpr (N == 8 && !Turned && is_bf16) SSM_MULTIPLY_64("bf16", "1");
  if constexpr (N == 8 && !Turned && !is_bf16) SSM_MULTIPLY_64("f16", "1");
  if constexpr (N == 16 && is_bf16) SSM_MULTIPLY_128("bf16", "1");
  if constexpr (N == 16 && !is_bf16) SSM_MULTIPLY_128("f16", "1");
#endif
}
#undef SSM_MULTIPLY_128
#undef SSM_MULTIPLY_64
#undef SSM_MULTIPLY
#undef SSM_NAMES_64
#undef SSM_NAMES_32
#undef SSM_ROWS
#undef SSM_ROW

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
/// Waits until at most the last `Count` groups of products have not finished.
template <int Count>
__device__ void wait_for_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Count) : "memory");
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
/// What this thread wrote or copied to shared memory becomes visible to products.
__device__ inline void show_copies_to_products() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace ssm::cuda::device
