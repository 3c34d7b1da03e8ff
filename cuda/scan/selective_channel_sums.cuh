// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "kernel/half_numbers.cuh"

namespace ssm::cuda::device {

/// Sums over the eight channels of a warp, of eight numbers at a time for each of its four
/// quarters: of half types by tensor cores, which read 11 bits of a float. A row of the product is
/// a quarter and half of its channels, a column is a number; what is added are the numbers of four
/// lanes.
template <class T>
class ChannelSums {
 public:
  /// Adds up the eight numbers of set 0 or 1. `ones` is row lane / 4 of the unit matrix.
  __device__ void take(int set, int lane, const float (&values)[8], const float* ones) {
    if constexpr (sizeof(T) == 4) {
      float rest[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) rest[i] = values[i];
#pragma unroll
      for (int half = 4, bit = 1; half > 0; half /= 2, bit *= 2) {
        const bool upper = (lane & bit) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
          const float given = upper ? rest[i] : rest[i + half];
          const float kept = upper ? rest[i + half] : rest[i];
          rest[i] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
        }
      }
      sums_[set] = rest[0];
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 one = *reinterpret_cast<const float2*>(ones + 4 * set + 2 * i);
        multiply(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3],
                 __float_as_uint(one.x), __float_as_uint(one.y));
      }
    }
  }
  /// Calls write(set, number, quarter, sum) for what this lane has; each is in one lane.
  template <class F>
  __device__ void write(int lane, F write) const {
    if constexpr (sizeof(T) == 4) {
      const int number = (lane & 1) * 4 + (lane & 2) + (lane & 4) / 4;
#pragma unroll
      for (int set = 0; set < 2; ++set) write(set, number, lane / 8, sums_[set]);
    } else {
      // Column 4·set + 2·i + r holds numbers 4·i + 2·r of rows 0 … 7, 4·i + 2·r + 1 below.
      const bool lower = (lane & 4) != 0;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float given = lower ? sums_[r] : sums_[2 + r];
        const float kept = lower ? sums_[2 + r] : sums_[r];
        const float total = kept + __shfl_xor_sync(0xffffffffu, given, 4);
        write(lane % 4 / 2, lane % 2 * 4 + 2 * r + (lower ? 1 : 0), lane / 8, total);
      }
    }
  }

 private:
  __device__ static unsigned narrow(float value) {
    if constexpr (std::is_same_v<T, Float16>) {
      unsigned rounded;
      asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
      return rounded;
    }
    return __float_as_uint(value);
  }
  __device__ void multiply(float a0, float a1, float a2, float a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sums_[0]), "+f"(sums_[1]), "+f"(sums_[2]), "+f"(sums_[3])
        : "r"(narrow(a0)), "r"(narrow(a1)), "r"(narrow(a2)), "r"(narrow(a3)), "r"(b0), "r"(b1));
  }

  float sums_[4] = {};
};

}  // namespace ssm::cuda::device
