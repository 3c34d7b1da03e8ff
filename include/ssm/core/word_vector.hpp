// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace ssm::detail {

// The one header of core that asks which compiler and processor it is compiled for: written
// plainly, the product below costs GCC three times as much.

/// Numbers of 32 bits, each in the low half of 64; what is in the high half is never read.
#if defined(__AVX2__)
inline constexpr int words_in_vector = 4;
#else
inline constexpr int words_in_vector = 2;
#endif
using Words [[gnu::vector_size(8 * words_in_vector)]] = std::uint64_t;

/// to = multiplier · the low half of x, all 64 bits of the product
inline void multiply_low_halves(std::uint32_t multiplier, const Words& x, Words& to) {
#if defined(__SSE2__) && !defined(__clang__) && !defined(__CUDACC__)
  using Halves [[gnu::vector_size(8 * words_in_vector)]] = int;
  const auto factors = Halves(Words{} + multiplier);
#if defined(__AVX2__)
  to = Words(__builtin_ia32_pmuludq256(Halves(x), factors));
#else
  to = Words(__builtin_ia32_pmuludq128(Halves(x), factors));
#endif
#else
  to = (x & 0xffffffffU) * multiplier;
#endif
}

}  // namespace ssm::detail
