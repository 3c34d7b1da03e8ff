// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/tensor_map.cuh"
#include "kernel/block_pipeline.cuh"
#include "scan/batched_h3_layout.cuh"

namespace ssm::cuda::device {

// How steps of the warps' columns come to shared memory and go from it: by the copy engine in code
// for sm_90a, by the warps elsewhere.

/// A [B, L, D] tensor with channels contiguous.
struct StepRows {
  CUtensorMap map;  // of 64 positions of eight channels
  BFloat16* data;
  Index batch_stride, position_stride;
};
/// False where the driver cannot describe it to the engine.
template <class T>
bool describe_steps(StepRows& to, const View<T, 3, CudaSpace>& x) {
  to.data = const_cast<std::remove_const_t<T>*>(x.data());
  to.batch_stride = x.stride(0), to.position_stride = x.stride(1);
  const auto encode = tensor_map_encoder();
  if (encode == nullptr) return false;
  // The stride of an axis of one may be anything.
  const auto bytes = [&x](int axis) {
    return x.extent(axis) > 1 ? sizeof(T) * static_cast<cuuint64_t>(x.stride(axis)) : 16;
  };
  const cuuint64_t extents[3] = {static_cast<cuuint64_t>(x.extent(2)),
                                 static_cast<cuuint64_t>(x.extent(1)),
                                 static_cast<cuuint64_t>(x.extent(0))};
  const cuuint64_t strides[2] = {bytes(1), bytes(0)};
  const cuuint32_t box[3] = {kSide, kStep, 1}, steps[3] = {1, 1, 1};
  return encode(&to.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, to.data, extents, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// Copies to shared memory by one warp, which are waited for in phases: a phase is one of `bring`.
class Arrival {
 public:
  /// By one thread, then show_arrivals and a barrier of the block.
  __device__ void begin() { start(full_, 1); }
  /// Begins to copy a step of the warp's column of several tensors; zeros where there is none.
  template <int Count>
  __device__ void bring(ColumnRows* const (&to)[Count], const StepRows* const (&from)[Count],
                        const ColumnPlace& place, int step) {
    if (!is_elected()) return;
    expect(full_, Count * static_cast<int>(sizeof(uint4[kStep])));
#pragma unroll
    for (int i = 0; i < Count; ++i)
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
          "[%0],[%1,{%2,%3,%4}],[%5];" ::"r"(shared_address((*to[i])[side_warp()])),
          "l"(&from[i]->map), "r"(static_cast<int>(blockIdx.x) * kSide),
          "r"(static_cast<int>(place.first) + step * kStep), "r"(static_cast<int>(place.sequence)),
          "r"(shared_address(&full_))
          : "memory");
  }
  /// Begins to copy words of the warp's own.
  __device__ void bring(void* to, const void* from, int bytes) {
    if (is_elected()) copy_bulk(to, from, bytes, full_);
  }
  /// What the phase of that number, from 0 on, brought can be read by all lanes.
  __device__ void wait(int phase) { wait_for_phase(full_, static_cast<unsigned>(phase)); }

 private:
  SharedBarrier full_;
};
__device__ inline void show_arrivals() { show_barriers(); }

/// What was given last has been read.
__device__ inline void finish_given_steps() {
  if (is_elected()) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  __syncwarp();
}
/// Begins to write a step of the warp's column of several tiles; finish_given_steps comes before
/// the block ends. `through` is the warp's until then.
template <int Count>
__device__ void give_steps(const StepRows* const (&to)[Count], ChannelTile* const (&from)[Count],
                           ColumnRows* through, const ColumnPlace& place, int step) {
  finish_given_steps();
#pragma unroll
  for (int i = 0; i < Count; ++i) from[i]->gather(through[i]);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (!is_elected()) return;
#pragma unroll
  for (int i = 0; i < Count; ++i)
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0,{%1,%2,%3}],[%4];" ::"l"(
            &to[i]->map),
        "r"(static_cast<int>(blockIdx.x) * kSide),
        "r"(static_cast<int>(place.first) + step * kStep), "r"(static_cast<int>(place.sequence)),
        "r"(shared_address(through[i][side_warp()]))
        : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

#else

/// The block's channels at a position of the warp's sequence.
__device__ inline BFloat16* row_of(const StepRows& x, const ColumnPlace& place, Index position) {
  return x.data + place.sequence * x.batch_stride + position * x.position_stride +
         static_cast<Index>(blockIdx.x) * kSide;
}

class Arrival {
 public:
  __device__ void begin() {}
  template <int Count>
  __device__ void bring(ColumnRows* const (&to)[Count], const StepRows* const (&from)[Count],
                        const ColumnPlace& place, int step) {
#pragma unroll
    for (int i = 0; i < Count; ++i)
#pragma unroll
      for (int row = threadIdx.x % 32; row < kStep; row += 32) {
        const Index position = place.first + step * kStep + row;
        copy_async_or_zero(&(*to[i])[side_warp()][row], row_of(*from[i], place, position),
                           position >= 0 && position < place.first + place.length);
      }
  }
  __device__ void bring(void* to, const void* from, int bytes) {
    for (int i = threadIdx.x % 32; i < bytes / 16; i += 32)
      copy_async(static_cast<uint4*>(to) + i, static_cast<const uint4*>(from) + i);
  }
  __device__ void wait(int) {
    wait_for_copies();
    __syncwarp();
  }
};
__device__ inline void show_arrivals() {}
__device__ inline void finish_given_steps() {}
template <int Count>
__device__ void give_steps(const StepRows* const (&to)[Count], ChannelTile* const (&from)[Count],
                           ColumnRows* through, const ColumnPlace& place, int step) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    from[i]->gather(through[i]);
    __syncwarp();
#pragma unroll
    for (int row = threadIdx.x % 32; row < kStep; row += 32) {
      const Index position = place.first + step * kStep + row;
      if (position < place.first + place.length)
        *reinterpret_cast<uint4*>(row_of(*to[i], place, position)) = through[i][side_warp()][row];
    }
    __syncwarp();
  }
}

#endif

}  // namespace ssm::cuda::device
