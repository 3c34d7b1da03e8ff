// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

// g++ 12 finds uninitialized variables in its own AVX-512 intrinsics, even under -isystem. It asks
// the place where they are defined: a program that includes <immintrin.h> or Eigen before this must
// give -Wno-maybe-uninitialized itself.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <xsimd/xsimd.hpp>
#pragma GCC diagnostic pop
#else
#include <xsimd/xsimd.hpp>
#endif

#include "ssm/core/scalar.hpp"  // HalfStorage
#include "ssm/core/tensor_view.hpp"

namespace ssm::cpu {

/// One vector register. This file is the only one that knows how xsimd's versions (8.1 … 14)
/// differ.
template <class T, class Arch>
using Batch = xsimd::batch<T, Arch>;

/// Scalars in a register.
template <class T, class Arch>
inline constexpr Index lane_count = static_cast<Index>(Batch<T, Arch>::size);

/// Unaligned loads and stores of one register.
template <class T, class Arch>
Batch<T, Arch> load(const T* from) {
  return Batch<T, Arch>::load_unaligned(from);
}
/// bf16 read as T: the bits of a float begin with them. xsimd has no such conversion.
template <class T, class Arch>
[[gnu::always_inline]] inline Batch<T, Arch> load(const BFloat16* from) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 64) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 32) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
#endif
  alignas(64) T buffer[lane_count<T, Arch>];
  for (Index i = 0; i < lane_count<T, Arch>; ++i) buffer[i] = scalar_cast<T>(from[i]);
  return Batch<T, Arch>::load_aligned(buffer);
}
/// f16 read as T. xsimd has no such conversion.
template <class T, class Arch>
[[gnu::always_inline]] inline Batch<T, Arch> load(const Float16* from) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 64)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
#if defined(__AVX__) && defined(__F16C__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 32)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
  alignas(64) T buffer[lane_count<T, Arch>];
  for (Index i = 0; i < lane_count<T, Arch>; ++i) buffer[i] = scalar_cast<T>(from[i]);
  return Batch<T, Arch>::load_aligned(buffer);
}
/// Whole numbers read as T. xsimd has no such conversion.
template <class T, class Arch>
[[gnu::always_inline]] inline Batch<T, Arch> load(const std::int8_t* from) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 64) {
    const __m128i numbers = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(numbers));
  }
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 32) {
    const __m128i numbers = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(numbers));
  }
#endif
  alignas(64) T buffer[lane_count<T, Arch>];
  for (Index i = 0; i < lane_count<T, Arch>; ++i) buffer[i] = static_cast<T>(from[i]);
  return Batch<T, Arch>::load_aligned(buffer);
}
template <class T, class Arch>
void store(T* to, const Batch<T, Arch>& value) {
  value.store_unaligned(to);
}

/// `count` ≤ lanes elements, `stride` apart; the lanes beyond are `rest`. Reads nothing outside.
/// The general case stays out of line, so that the contiguous one costs its callers no registers.
template <class T, class Arch>
[[gnu::noinline]] Batch<T, Arch> gather_apart(const T* from, Index stride, Index count, T rest) {
  alignas(64) T buffer[lane_count<T, Arch>];
  for (Index i = 0; i < lane_count<T, Arch>; ++i) buffer[i] = i < count ? from[i * stride] : rest;
  return Batch<T, Arch>::load_aligned(buffer);
}
template <class T, class Arch>
[[gnu::always_inline]] inline Batch<T, Arch> gather(const T* from, Index stride, Index count,
                                                    T rest = T{0}) {
  if (stride == 1 && count == lane_count<T, Arch>) [[likely]]
    return load<T, Arch>(from);
  return gather_apart<T, Arch>(from, stride, count, rest);
}
template <class T, class Arch, class Stored>
[[gnu::noinline]] Batch<T, Arch> gather_apart(const Stored* from, Index stride, Index count) {
  alignas(64) T buffer[lane_count<T, Arch>];
  for (Index i = 0; i < lane_count<T, Arch>; ++i)
    buffer[i] = i < count ? scalar_cast<T>(from[i * stride]) : T{0};
  return Batch<T, Arch>::load_aligned(buffer);
}
template <class T, class Arch, class Stored>
  requires(HalfStorage<Stored> || std::is_same_v<Stored, std::int8_t>)
[[gnu::always_inline]] inline Batch<T, Arch> gather(const Stored* from, Index stride, Index count) {
  if (stride == 1 && count == lane_count<T, Arch>) [[likely]]
    return load<T, Arch>(from);
  return gather_apart<T, Arch, Stored>(from, stride, count);
}
template <class T, class Arch>
[[gnu::noinline]] void scatter_apart(T* to, Index stride, Index count,
                                     const Batch<T, Arch>& value) {
  alignas(64) T buffer[lane_count<T, Arch>];
  value.store_aligned(buffer);
  for (Index i = 0; i < count; ++i) to[i * stride] = buffer[i];
}
template <class T, class Arch>
[[gnu::always_inline]] inline void scatter(T* to, Index stride, Index count,
                                           const Batch<T, Arch>& value) {
  if (stride == 1 && count == lane_count<T, Arch>) [[likely]]
    store<T, Arch>(to, value);
  else
    scatter_apart<T, Arch>(to, stride, count, value);
}

/// Keeps a value that is used several times in a register. Otherwise g++ reads it from memory at
/// every use, and a loop of products waits for loads.
template <class T, class Arch>
[[gnu::always_inline]] inline void keep_in_register([[maybe_unused]] Batch<T, Arch>& value) {
#if defined(__SSE2__)
  asm("" : "+v"(value.data));
#endif
}

/// Two registers of numbers that lie in pairs in memory: the first of each pair, and the second.
template <class T, class Arch>
struct Pairs {
  Batch<T, Arch> first, second;
};
/// 2·lanes contiguous scalars, taken apart.
template <class T, class Arch>
[[gnu::always_inline]] inline Pairs<T, Arch> load_pairs(const T* from) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 64) {
    const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return {_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)};
  }
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 32) {
    const __m256 low = _mm256_loadu_ps(from), high = _mm256_loadu_ps(from + 8);
    const auto in_order = [](__m256 x) {  // the halves of both registers are interleaved by pairs
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
    };
    return {in_order(_mm256_shuffle_ps(low, high, 0x88)),
            in_order(_mm256_shuffle_ps(low, high, 0xdd))};
  }
#endif
  constexpr Index lanes = lane_count<T, Arch>;
  alignas(64) T buffer[2 * lanes];
  for (Index i = 0; i < lanes; ++i) {  // a fixed count: the compiler makes shuffles of it
    buffer[i] = from[2 * i];
    buffer[i + lanes] = from[2 * i + 1];
  }
  return {Batch<T, Arch>::load_aligned(buffer), Batch<T, Arch>::load_aligned(buffer + lanes)};
}
/// The inverse.
template <class T, class Arch>
[[gnu::always_inline]] inline void store_pairs(T* to, const Pairs<T, Arch>& pairs) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 64) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    _mm512_storeu_ps(to, _mm512_permutex2var_ps(pairs.first, low, pairs.second));
    _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(pairs.first, high, pairs.second));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float> && sizeof(Batch<T, Arch>) == 32) {
    const __m256 even = _mm256_unpacklo_ps(pairs.first, pairs.second);
    const __m256 odd = _mm256_unpackhi_ps(pairs.first, pairs.second);
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(even, odd, 0x20));
    _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(even, odd, 0x31));
    return;
  }
#endif
  constexpr Index lanes = lane_count<T, Arch>;
  alignas(64) T buffer[2 * lanes];
  pairs.first.store_aligned(buffer);
  pairs.second.store_aligned(buffer + lanes);
  for (Index i = 0; i < lanes; ++i) {
    to[2 * i] = buffer[i];
    to[2 * i + 1] = buffer[i + lanes];
  }
}

/// Σ of the lanes. Called hadd before xsimd 9, reduce_add since; found through the argument's
/// namespace.
template <class T, class Arch>
T sum_of_lanes(const Batch<T, Arch>& value) {
  if constexpr (requires { reduce_add(value); })
    return reduce_add(value);
  else
    return hadd(value);
}
template <class T, class Arch>
T largest_lane(const Batch<T, Arch>& value) {  // reduce_max is not in 8.1
  alignas(64) T buffer[lane_count<T, Arch>];
  value.store_aligned(buffer);
  T largest = buffer[0];
  for (const T lane : buffer) largest = lane > largest ? lane : largest;
  return largest;
}

namespace detail {
template <int... I, class F>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, I...>, F& body) {
  (body(std::integral_constant<int, I>{}), ...);
}
template <int... I, class F>
[[gnu::always_inline]] inline void expanded(std::integer_sequence<int, I...>, F& body) {
  body(std::integral_constant<int, I>{}...);
}
}  // namespace detail
/// body(0), …, body(N−1) with constant indices: the arrays that they index stay in registers at any
/// optimization level.
template <int N, class F>
[[gnu::always_inline]] inline void unrolled(F&& body) {
  detail::unrolled(std::make_integer_sequence<int, N>{}, body);
}
/// The same as one call body(0, …, N−1), for bodies that fold over their arguments: one function to
/// compile and not N.
///   expanded<4>([&](auto... i) { ((sums[i] = Register(T{0})), ...); });
template <int N, class F>
[[gnu::always_inline]] inline void expanded(F&& body) {
  detail::expanded(std::make_integer_sequence<int, N>{}, body);
}

/// c − a·b in one operation. xsimd 8 has none for AVX-512 and negates first.
template <class T, class Arch>
Batch<T, Arch> negated_multiply_add(const Batch<T, Arch>& a, const Batch<T, Arch>& b,
                                    const Batch<T, Arch>& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Batch<T, Arch>) == 64) {
    if constexpr (std::is_same_v<T, float>)
      return _mm512_fnmadd_ps(a, b, c);
    else
      return _mm512_fnmadd_pd(a, b, c);
  }
#endif
  return xsimd::fnma(a, b, c);
}

/// 1 / (1 + e^−x), without overflow to NaN at either end.
template <class T, class Arch>
Batch<T, Arch> sigmoid(const Batch<T, Arch>& x) {
  const Batch<T, Arch> one(T{1});
  return one / (one + xsimd::exp(-x));
}

/// Pointwise work may walk either axis of its operands: this puts the one along which the leading
/// operand is contiguous innermost.
template <class T>
bool wants_turning(const View<T, 2, HostSpace>& leading) {
  return leading.stride(1) != 1 && leading.stride(0) == 1;
}
template <class T>
View<T, 2, HostSpace> turned(const View<T, 2, HostSpace>& view, bool turn) {
  return view && turn ? view.transpose(0, 1) : view;
}

/// A view of rank 2 read and written a register at a time along its second axis; one of rank 1 is
/// every row.
template <class T, class Arch>
class Rows {
 public:
  using Value = std::remove_const_t<T>;
  using Register = Batch<Value, Arch>;

  explicit Rows(const View<T, 2, HostSpace>& view)
      : data_(view.data()), row_stride_(view.stride(0)), stride_(view.stride(1)) {}

  explicit Rows(const View<T, 1, HostSpace>& view)
      : data_(view.data()), row_stride_(0), stride_(view.stride(0)) {}

  explicit operator bool() const { return data_ != nullptr; }
  Register load(Index row, Index column, Index count, Value rest = Value{0}) const {
    return gather<Value, Arch>(data_ + row * row_stride_ + column * stride_, stride_, count, rest);
  }
  void store(Index row, Index column, Index count, const Register& value) const {
    scatter<Value, Arch>(data_ + row * row_stride_ + column * stride_, stride_, count, value);
  }

 private:
  T* data_;
  Index row_stride_;
  Index stride_;
};

}  // namespace ssm::cpu
