// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ssm/backend/cuda/diagonal_scan.hpp>
#include <type_traits>

#include "device/tensor_map.cuh"
#include "kernel/block_pipeline.cuh"
#include "kernel/shared_tiles.cuh"

namespace ssm::cuda::device {

// Tiles of sequences in shared memory, with chunks as columns of products: 32 rows of 128 bytes, a
// chunk's positions or states; chunk 8·q + 2·j + i is row 8·j + 2·q + i, so that the columns of
// four neighboring lanes are all chunks. Those of two sequences may lie side by side; one that is
// alone has zeros beside it.

inline constexpr int kTurnedTile = 2048;              // positions
inline constexpr int kTurnedBytes = 2 * kTurnedTile;  // of a tile
inline constexpr int kTurnedThreads = 128;            // of a warpgroup

/// Byte of a tile where eight positions `piece` of a chunk are.
__device__ inline int turned_place(int chunk, int piece) {
  const int line = 2 * (chunk / 8) + chunk % 2;
  return (8 * (chunk % 8 / 2) + line) * 128 + (piece ^ line) * 16;
}
/// Byte of a tile that this lane names to store or load the warp's 16 rows of 16 columns, turned.
__device__ inline int turned_lane_place(int warp, int lane) {
  const int which = lane / 8, line = lane % 8;
  return (8 * (which / 2) + line) * 128 + ((2 * warp + which % 2) ^ line) * 16;
}

/// This thread's two runs of eight positions of a tile: 8·thread and 1024 further on.
struct TurnedRuns {
  unsigned place[2];  // bytes of the tile in shared memory

  __device__ explicit TurnedRuns(int thread) {
    place[0] = turned_place(thread / 8, thread % 8);
    place[1] = (place[0] + 512) ^ 64;  // sixteen chunks on
  }
  __device__ unsigned place_of(int i) const { return i == 0 ? place[0] : place[1]; }
  // Parts of tiles take loops, which are not unrolled into predicates of the whole ones' accesses.

  /// Starts the copy of a tile, the first run of which is at `from`; of the tile `left` positions
  /// are there, then zeros.
  __device__ void copy(unsigned to, const BFloat16* from, int left) const {
    if (left >= kTurnedTile) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to + place[i]),
                     "l"(from + 1024 * i)
                     : "memory");
      return;
    }
    const int first = 8 * (threadIdx.x % kTurnedThreads);
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const int bytes = max(0, min(16, 2 * (left - first - 1024 * i)));
      asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to + place_of(i)),
                   "l"(bytes > 0 ? from + 1024 * i : from), "r"(bytes)
                   : "memory");
    }
  }
  __device__ void write(BFloat16* to, unsigned from, int left) const {
    if (left >= kTurnedTile) {
      uint4 words[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) words[i] = load_run(from + place[i]);
#pragma unroll
      for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(to + 1024 * i) = words[i];
      return;
    }
    const int first = 8 * (threadIdx.x % kTurnedThreads);
#pragma unroll 1
    for (int i = 0; i < 2; ++i)
      store_words(to + 1024 * i, left - first - 1024 * i, false, load_run(from + place_of(i)));
  }
};

/// What the copy engine has to know of sequences of whole tiles.
struct TurnedMap {
  CUtensorMap map;
  int batch, channel;  // strides in tiles
};

/// Of the sequences of a call; false where the engine cannot copy them.
template <class T>
bool describe_turned(TurnedMap& to, const Sequences<T>& x, const DiagonalScanShape& shape) {
  const auto encode = tensor_map_encoder();
  const auto in_tiles = [](long long n) { return n >= 0 && n % kTurnedTile == 0; };
  if (encode == nullptr || !in_tiles(shape.length) || !in_tiles(x.batch_stride) ||
      !in_tiles(x.channel_stride))
    return false;
  const long long tiles = ((shape.batch - 1) * x.batch_stride +
                           (shape.channels - 1) * x.channel_stride + shape.length) /
                          kTurnedTile;
  if (tiles > 1ll << 30) return false;
  to.batch = static_cast<int>(x.batch_stride / kTurnedTile);
  to.channel = static_cast<int>(x.channel_stride / kTurnedTile);
  // Positions of a chunk, then i, q and j of the row.
  const cuuint64_t extents[5] = {64, 2, 4, 4, static_cast<cuuint64_t>(tiles)};
  const cuuint64_t strides[4] = {128, 1024, 256, kTurnedBytes};  // bytes
  const cuuint32_t box[5] = {64, 2, 4, 4, 1}, steps[5] = {1, 1, 1, 1, 1};
  return encode(&to.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5,
                const_cast<std::remove_const_t<T>*>(x.data), extents, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// The tiles of one or two neighboring sequences where a walk is; Engine: by the first's number in
/// a map, else by the address of this thread's first run.
template <bool Engine, class T>
class TurnedTiles {
 public:
  __device__ TurnedTiles(const Sequences<T>& x, const TurnedMap&)
      : x_(&x), first_(x.data + 8 * (threadIdx.x % kTurnedThreads)) {}
  __device__ void enter(int sequence, int channel, int tile) {
    at_ = first_ + sequence * x_->batch_stride + channel * x_->channel_stride +
          static_cast<long long>(tile) * kTurnedTile;
  }
  __device__ void move(int sequences, int tiles) {
    at_ += sequences * x_->batch_stride + static_cast<long long>(tiles) * kTurnedTile;
  }

  /// Begins to copy them to shared memory; of each `left` positions are there.
  template <int Tiles>
  __device__ void copy(unsigned to, const TurnedRuns& runs, int left, bool alone) const {
    runs.copy(to, at_, left);
    if (Tiles == 2)
      runs.copy(to + kTurnedBytes, alone ? at_ : at_ + x_->batch_stride, alone ? 0 : left);
  }
  template <int Tiles>
  __device__ void write(unsigned from, const TurnedRuns& runs, int left, bool alone) const {
    runs.write(at_, from, left);
    if (Tiles == 2 && !alone) runs.write(at_ + x_->batch_stride, from + kTurnedBytes, left);
  }

 private:
  const Sequences<T>* x_;
  T *first_, *at_ = nullptr;
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS
template <class T>
class TurnedTiles<true, T> {
 public:
  __device__ TurnedTiles(const Sequences<T>&, const TurnedMap& map) : map_(&map) {}
  __device__ void enter(int sequence, int channel, int tile) {
    at_ = sequence * map_->batch + channel * map_->channel + tile;
  }
  __device__ void move(int sequences, int tiles) { at_ += sequences * map_->batch + tiles; }

  /// Begins to copy them to shared memory, by one thread; `full` has been told of their bytes.
  template <int Tiles>
  __device__ void copy(unsigned to, bool alone, SharedBarrier& full) const {
    constexpr int nowhere = 1 << 30;  // zeros
    copy(to, at_, full);
    if (Tiles == 2) copy(to + kTurnedBytes, alone ? nowhere : at_ + map_->batch, full);
  }
  /// Begins to write them from shared memory, by one thread, which then calls finish_bulk_reads.
  template <int Tiles>
  __device__ void write(unsigned from, bool alone) const {
    write(from, at_);
    if (Tiles == 2 && !alone) write(from + kTurnedBytes, at_ + map_->batch);
  }

 private:
  __device__ void copy(unsigned to, int tile, SharedBarrier& full) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0],[%1,{%3,%3,%3,%3,%4}],[%2];" ::"r"(to),
        "l"(&map_->map), "r"(shared_address(&full)), "r"(0), "r"(tile)
        : "memory");
  }
  __device__ void write(unsigned from, int tile) const {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0,{%2,%2,%2,%2,%3}],[%1];" ::"l"(
            &map_->map),
        "r"(from), "r"(0), "r"(tile)
        : "memory");
  }

  const TurnedMap* map_;
  int at_ = 0;
};
#endif

}  // namespace ssm::cuda::device
