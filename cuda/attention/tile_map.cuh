// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/warpgroup_tile.cuh"
#include "device/tensor_map.cuh"
#include "kernel/block_pipeline.cuh"

namespace ssm::cuda::device {

/// What the copy engine of an SM has to know of a [B, L, H, K] operand whose tiles it copies.
struct TileMap {
  CUtensorMap map;
};

/// Tiles of `rows` positions of a head, in panels of 64 channels as WarpgroupTiles has them; false
/// where the driver refuses. What lies outside of the operand is zero.
template <class T, class Space>
bool describe_tiles(TileMap& to, const View<const T, 4, Space>& x, int rows) {
  const auto encode = tensor_map_encoder();
  if (encode == nullptr) return false;
  constexpr int axes[4] = {3, 2, 1, 0};
  cuuint64_t extents[4], strides[3];
  for (int i = 0; i < 4; ++i) {
    extents[i] = static_cast<cuuint64_t>(x.extent(axes[i]));
    // The stride of an axis of one may be anything.
    if (i > 0)
      strides[i - 1] = extents[i] > 1 ? sizeof(T) * static_cast<cuuint64_t>(x.stride(axes[i])) : 16;
  }
  const cuuint32_t box[4] = {64, 1, static_cast<cuuint32_t>(rows), 1}, steps[4] = {1, 1, 1, 1};
  return encode(&to.map,
                std::is_same_v<T, BFloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                4, const_cast<T*>(x.data()), extents, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// A warp's copies of tiles of `Rows` rows to shared memory; a stage's barrier is told once.
template <class Tiles, int Rows, class T>
class TileCopier {
 public:
  /// The rows of a sequence begin at position `begin` of row `batch`, where `x` points.
  __device__ TileCopier(const TileMap& map, Index batch, Index begin, Index head, const T* x,
                        Index row_stride, int width)
      : map_(&map),
        x_(x),
        stride_(row_stride),
        batch_(static_cast<int>(batch)),
        begin_(static_cast<int>(begin)),
        head_(static_cast<int>(head)),
        width_(width) {}

  /// Rows from `first` on; what lies behind them, up to the tile's end, may be copied too.
  __device__ void copy(T* tile, int first, SharedBarrier& full) const {
    if (threadIdx.x % 32 != 0) return;
    expect(full, Rows * Tiles::Width * static_cast<int>(sizeof(T)));
#pragma unroll
    for (int panel = 0; panel < Tiles::Width / 64; ++panel)
      asm volatile(
          "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
          "[%0],[%1,{%2,%3,%4,%5}],[%6];" ::"r"(shared_address(tile + panel * Rows * 64)),
          "l"(&map_->map), "r"(panel * 64), "r"(head_), "r"(begin_ + first), "r"(batch_),
          "r"(shared_address(&full))
          : "memory");
  }
  /// Zeros for all but `count` rows from `first` on, whatever lies behind them.
  __device__ void copy_only(T* tile, int first, int count, SharedBarrier& full) const {
    constexpr int pieces = Tiles::Width / 8, together = 32 / pieces == 0 ? 1 : 32 / pieces;
    static_assert(pieces <= 32);
    const int lane = static_cast<int>(threadIdx.x % 32), column = lane % pieces * 8;
#pragma unroll 1
    for (int row = lane / pieces; row < Rows; row += together)
      copy_async_or_zero(Tiles::template at<Rows>(tile, row, column),
                         x_ + (first + row) * stride_ + column, row < count && column < width_);
    wait_for_copies();
    Tiles::show_copies();
    __syncwarp();
    if (lane == 0) arrive(full);
  }
  __device__ void copy(T* tile, int first, int count, bool only, SharedBarrier& full) const {
    if (only && count < Rows)
      copy_only(tile, first, count, full);
    else
      copy(tile, first, full);
  }

 private:
  const TileMap* map_;
  const T* x_;
  Index stride_;
  int batch_, begin_, head_, width_;
};

#endif

}  // namespace ssm::cuda::device
