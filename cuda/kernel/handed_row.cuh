// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/launch.cuh"
#include "device/row_exchange.cuh"
#include "kernel/unroll.cuh"

namespace ssm::cuda::device {

/// A row that the blocks of one kernel hand each other:
///   begin, then write; exchange; read
/// A block waits for the others a while only: where some of them find no room beside it, it leaves
/// its share of what follows to the block that arrives last. So blocks need not run at once.
/// One thread of a block asks whether all have arrived: as many as have numbers to read would take
/// the memory's time from weights that are on their way.
class HandedRow {
 public:
  /// What a block does when it has exchanged.
  enum class Share { none, own, own_and_left };
  using Count = RowExchange::Count;

  HandedRow() = default;
  explicit HandedRow(const RowExchange& exchange) : memory_(exchange.memory()) {}

  /// What had been counted before this kernel; behind wait_for_predecessors, in thread 0.
  __device__ Count begin() const { return *static_cast<volatile Count*>(&memory_->before); }
  __device__ void write(int i, float number) const { memory_->numbers[i] = number; }
  /// Waits until all blocks have written.
  __device__ Share exchange(Count before) const {
    __shared__ Share share;
    __syncthreads();
    if (threadIdx.x == 0) share = arrive(before);
    __syncthreads();
    return share;
  }
  /// For own_and_left: a block whose share is left, or −1.
  __device__ int take() const {
    __shared__ int taken;
    __syncthreads();
    if (threadIdx.x == 0) {
      taken = -1;
      for (int word = 0; word < words && taken < 0; ++word)
        for (unsigned marks = atomicOr(&memory_->left[word], 0); marks != 0 && taken < 0;
             marks &= marks - 1) {
          const int block = word * 32 + __ffs(static_cast<int>(marks)) - 1;
          if (claim(block)) taken = block;
        }
    }
    __syncthreads();
    return taken;
  }
  /// From a multiple of 4 on, past the multiprocessor's cache.
  template <int Numbers>
  __device__ void read(int begin, float (&row)[Numbers]) const {
    static_assert(Numbers % 4 == 0);
    SSM_UNROLL
    for (int i = 0; i < Numbers; i += 4) {
      const float4 some = __ldcg(reinterpret_cast<const float4*>(memory_->numbers + begin + i));
      row[i] = some.x;
      row[i + 1] = some.y;
      row[i + 2] = some.z;
      row[i + 3] = some.w;
    }
  }

 private:
  static constexpr int words = row_exchange_blocks / 32;
  static constexpr int most_asked = 64;  // times, about 30 µs

  __device__ Share arrive(Count before) const {
    const auto is_all = [&](Count counted) {
      return static_cast<unsigned>(counted) - static_cast<unsigned>(before) >= gridDim.x;
    };
    const Count counted = add(1) + 1;
    if (is_all(counted)) {  // the last one; none asks for what was before any more
      *static_cast<volatile Count*>(&memory_->before) = counted;
      return counted >> 32 == before >> 32 ? Share::own : Share::own_and_left;
    }
    for (int asked = 0; asked < most_asked; ++asked) {
      Count now;
      asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                   : "=l"(now)
                   : "l"(&memory_->counted)
                   : "memory");
      if (is_all(now)) return Share::own;
    }
    // The mark first: who arrives last and sees the count sees it.
    const int own = static_cast<int>(blockIdx.x);
    atomicOr(&memory_->left[own / 32], 1U << own % 32);
    if (!is_all(add(Count{1} << 32))) return Share::none;
    return claim(own) ? Share::own : Share::none;
  }
  __device__ bool claim(int block) const {
    const unsigned mark = 1U << block % 32;
    return (atomicAnd(&memory_->left[block / 32], ~mark) & mark) != 0;
  }
  __device__ Count add(Count number) const {
    Count before;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;"
                 : "=l"(before)
                 : "l"(&memory_->counted), "l"(number)
                 : "memory");
    return before;
  }

  RowExchange::Memory* memory_ = nullptr;
};

}  // namespace ssm::cuda::device
