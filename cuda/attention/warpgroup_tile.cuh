// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attention_tile.cuh"

namespace ssm::cuda::device {

// Products of four warps at once, from shared memory: wgmma, which only code for sm_90a has.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SSM_HAS_WARPGROUP_PRODUCTS 1
#endif

#define SSM_ROW(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SSM_ROWS(c, n) SSM_ROW(c, n), SSM_ROW(c, n + 1), SSM_ROW(c, n + 2), SSM_ROW(c, n + 3)
#define SSM_SUMS_4(c) SSM_ROWS(c, 0)
#define SSM_SUMS_8(c) SSM_ROWS(c, 0), SSM_ROWS(c, 4)
#define SSM_SUMS_16(c) SSM_ROWS(c, 0), SSM_ROWS(c, 4), SSM_ROWS(c, 8), SSM_ROWS(c, 12)
#define SSM_NAMES_4          \
  "%0,%1,%2,%3,%4,%5,%6,%7," \
  "%8,%9,%10,%11,%12,%13,%14,%15"
#define SSM_NAMES_8                  \
  "%0,%1,%2,%3,%4,%5,%6,%7,"         \
  "%8,%9,%10,%11,%12,%13,%14,%15,"   \
  "%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"
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
#define SSM_MULTIPLY_REGISTERS(N, columns, type, b_name, adds_name, left)                       \
  SSM_MULTIPLY(N, columns, type, b_name, adds_name, left, "1", "r"(a[0]), "r"(a[1]), "r"(a[2]), \
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

/// c += a · b; a [64, 16] in registers, b [16, 8·N] in shared memory with its columns contiguous.
template <class T, int N>
__device__ void multiply_shared(float (&c)[N][4], const unsigned (&a)[4], unsigned long long b) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 8 || N == 16);
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  constexpr bool adds = true;
  if constexpr (N == 8 && is_bf16)
    SSM_MULTIPLY_REGISTERS(8, "64", "bf16", "%32", "%33", "{%34,%35,%36,%37}");
  if constexpr (N == 8 && !is_bf16)
    SSM_MULTIPLY_REGISTERS(8, "64", "f16", "%32", "%33", "{%34,%35,%36,%37}");
  if constexpr (N == 16 && is_bf16)
    SSM_MULTIPLY_REGISTERS(16, "128", "bf16", "%64", "%65", "{%66,%67,%68,%69}");
  if constexpr (N == 16 && !is_bf16)
    SSM_MULTIPLY_REGISTERS(16, "128", "f16", "%64", "%65", "{%66,%67,%68,%69}");
#endif
}

/// c += aᵀ · b or, unless `adds`, c = aᵀ · b; a [16, 64] and b [16, 8·N] in shared memory, both
/// with their columns contiguous.
template <class T, int N>
__device__ void multiply_both_transposed(float (&c)[N][4], unsigned long long a,
                                         unsigned long long b, bool adds) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  static_assert(N == 4 || N == 8);
  constexpr bool is_bf16 = std::is_same_v<T, BFloat16>;
  if constexpr (N == 4 && is_bf16)
    SSM_MULTIPLY(4, "32", "bf16", "%16", "%17", "%18", "1,1", "l"(a));
  if constexpr (N == 4 && !is_bf16)
    SSM_MULTIPLY(4, "32", "f16", "%16", "%17", "%18", "1,1", "l"(a));
  if constexpr (N == 8 && is_bf16)
    SSM_MULTIPLY(8, "64", "bf16", "%32", "%33", "%34", "1,1", "l"(a));
  if constexpr (N == 8 && !is_bf16)
    SSM_MULTIPLY(8, "64", "f16", "%32", "%33", "%34", "1,1", "l"(a));
#endif
}
#undef SSM_MULTIPLY_REGISTERS
#undef SSM_MULTIPLY_SHARED
#undef SSM_MULTIPLY
#undef SSM_NAMES_16
#undef SSM_NAMES_8
#undef SSM_NAMES_4
#undef SSM_SUMS_16
#undef SSM_SUMS_8
#undef SSM_SUMS_4
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
/// Keeps the compiler from moving uses of sums across what surrounds it.
template <int N>
__device__ void hold(float (&c)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
}

/// Tiles that warpgroups multiply: panels of 64 columns, whose rows of 128 bytes have their
/// 16-byte pieces exchanged by the last three bits of the row. Begin at multiples of 1024 bytes.
/// Where there are no products of warpgroups, warps multiply them.
template <int Width_>
struct WarpgroupTiles {
  static constexpr int Width = Width_;
  static constexpr bool by_warpgroups = true;
  static_assert(Width % 64 == 0);
  static constexpr int size(int rows) { return rows * Width; }
  template <int Rows, class T>
  __device__ static T* at(T* tile, int row, int column) {
    return tile + (column / 64 * Rows + row) * 64 + ((column / 8 ^ row) % 8) * 8;
  }

  /// What was copied becomes visible to products from shared memory.
  __device__ static void show_copies() {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  }

  /// As the functions of that name; false where there are no products of warpgroups.
  template <int LeftRows, int N, class T>
  __device__ static bool begin_transposed(float (&sums)[N][4], const T* left, int own,
                                          const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    const unsigned long long a = describe(left + own / 64 * 64 * 64, 16);
    const unsigned long long b = describe(right, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Width / 16; ++step)
      multiply_shared<T, N>(sums, a + place(step, LeftRows), b + place(step, 8 * N), step > 0);
    end_products();
    hold(sums);
    return true;
#else
    return false;
#endif
  }
  template <int Steps, class T>
  __device__ static bool begin_add(float (&sums)[Width / 8][4], const unsigned (&factors)[Steps][4],
                                   const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    constexpr int block = Width % 128 == 0 ? 16 : 8;  // of columns, by eight
    const unsigned long long b = describe(right, 16 * Steps * 128);
    hold(sums);
    begin_products();
#pragma unroll
    for (int column = 0; column < Width / 8; column += block)
#pragma unroll
      for (int step = 0; step < Steps; ++step)
        multiply_shared<T, block>(reinterpret_cast<float(&)[block][4]>(sums[column]), factors[step],
                                  b + (column / 8 * Steps + step) * (16 * 128 >> 4));
    end_products();
    hold(sums);
    return true;
#else
    return false;
#endif
  }
  /// Begins sums = leftᵀ · right, of a panel and of some of its columns.
  ///   [64, 8·N] = [Rows, 64]ᵀ · [Rows, 8·N]
  template <int Rows, int N, class T>
  __device__ static void begin_both_transposed(float (&sums)[N][4], const T* left, const T* right) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    const unsigned long long a = describe(left, 16), b = describe(right, 16);
    hold(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Rows / 16; ++step)
      multiply_both_transposed<T>(sums, a + step * (16 * 128 >> 4), b + step * (16 * 128 >> 4),
                                  step > 0);
    end_products();
    hold(sums);
#endif
  }
  /// Waits until at most the last `Count` products have not finished; `sums` are of one that has.
  template <int Count, int N>
  __device__ static void wait(float (&sums)[N][4]) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Count) : "memory");
    hold(sums);
#endif
  }

 private:
  /// A matrix for the tensor cores: panels `panel` bytes apart, eight rows 1024, pieces exchanged.
  __device__ static unsigned long long describe(const void* matrix, int panel) {
    const auto address = static_cast<unsigned long long>(__cvta_generic_to_shared(matrix));
    return (address & 0x3ffff) >> 4 | static_cast<unsigned long long>(panel >> 4) << 16 |
           static_cast<unsigned long long>(1024 >> 4) << 32 | 1ull << 62;
  }
  /// How far the columns from 16·step on are, in the units of a description.
  __device__ static constexpr unsigned long long place(int step, int rows) {
    return static_cast<unsigned long long>(step / 4 * rows * 128 + step % 4 * 32) >> 4;
  }
};

}  // namespace ssm::cuda::device
