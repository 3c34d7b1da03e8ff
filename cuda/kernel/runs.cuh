// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernel/half_numbers.cuh"
#include "kernel/parallel.cuh"

namespace ssm::cuda::device {

/// Consecutive numbers of a factor that a lane takes at a time: 16 bytes of half types.
inline constexpr Index run_length = 8;

/// They stay as they were loaded, half types two in a register, until one is asked for.
template <class T>
struct Run {
  using Word = std::conditional_t<sizeof(T) == 2, std::uint32_t, T>;
  static constexpr int words = static_cast<int>(run_length * sizeof(T) / sizeof(Word));

  SSM_HOST_DEVICE Wide<T> operator[](int i) const {
    if constexpr (sizeof(T) > 2) {
      return loaded[i];
    } else {
      const std::uint32_t word = loaded[i / 2];
      if constexpr (std::is_same_v<T, BFloat16>)
        return std::bit_cast<float>(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
      else
        return widened(T::from_bits(static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16)));
    }
  }

  alignas(16) Word loaded[words];
};

/// A run at an address that 16 bytes divide, in as few loads as can be.
template <class T>
SSM_HOST_DEVICE Run<T> load_run(const T* from) {
  Run<T> run;
  std::memcpy(&run, __builtin_assume_aligned(from, 16), sizeof(run));
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
