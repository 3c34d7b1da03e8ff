// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"

namespace ssm::cuda::device {

/// Consecutive numbers of a factor that a lane takes at a time: 16 bytes of half types, 8 of int8.
inline constexpr Index run_length = 8;

/// What divides the address of a run, in bytes.
template <class T>
inline constexpr std::size_t run_alignment = sizeof(T) == 1 ? 8 : 16;

/// They stay as they were loaded, half types two in a register and int8 four, until one is asked
/// for; of int8 as a float.
template <class T>
struct Run {
  using Word = std::conditional_t<sizeof(T) <= 2, std::uint32_t, T>;
  using Number = std::conditional_t<sizeof(T) == 1, float, Wide<T>>;
  static constexpr int words = static_cast<int>(run_length * sizeof(T) / sizeof(Word));

  SSM_HOST_DEVICE Number operator[](int i) const {
    if constexpr (sizeof(T) > 2) {
      return loaded[i];
    } else if constexpr (sizeof(T) == 1) {
#ifdef __CUDA_ARCH__
      // The last byte of 2^23 is that of number + 128, as 2^23 + 128 is what is taken away.
      const std::uint32_t byte = __byte_perm(loaded[i / 4] ^ 0x80808080u, 0x4b000000u,
                                             0x7440u | static_cast<unsigned>(i % 4));
      return std::bit_cast<float>(byte) - 8388736.0F;
#else
      return static_cast<std::int8_t>(loaded[i / 4] >> (8 * (i % 4)) & 0xffu);
#endif
    } else {
      const std::uint32_t word = loaded[i / 2];
      if constexpr (std::is_same_v<T, BFloat16>)
        return std::bit_cast<float>(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
      else
        return widened(T::from_bits(static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16)));
    }
  }

  alignas(run_alignment<T>) Word loaded[words];
};

/// A run at an address that run_alignment divides, in as few loads as can be.
template <class T>
SSM_HOST_DEVICE Run<T> load_run(const T* from) {
  Run<T> run;
  std::memcpy(&run, __builtin_assume_aligned(from, run_alignment<T>), sizeof(run));
  return run;
}
/// One through any stride; numbers beyond the first `count` are zero.
template <class T>
SSM_HOST_DEVICE Run<T> gather_run(const T* from, Index stride, Index count) {
  T values[run_length] = {};
  for (Index i = 0; i < run_length; ++i)
    if (i < count) values[i] = from[i * stride];
  Run<T> run;
  std::memcpy(&run, values, sizeof(run));
  return run;
}

}  // namespace ssm::cuda::device
