// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "device/tensor_map.cuh"
#include "kernel/block_pipeline.cuh"
#include "ssm/backend/cuda/device.hpp"

namespace ssm::cuda::device {

// Products of matrices of half types, of the size of training, whose epilogues are our own. A block
// stays on its multiprocessor and goes from tile to tile: a warp copies panels of both matrices to
// a ring of stages in shared memory, and two warpgroups multiply them, a whole tile each in turns,
// so that one multiplies while the other one is in its epilogue. The blocks of a cluster have tiles
// of different rows and the same columns: each copies a part of the right panels to all of them.
// For sm_90a only.

/// A matrix whose rows or columns are contiguous, as copy engines read it.
struct MatrixMap {
  CUtensorMap map;
};
/// Panels of `high` × 64 numbers; `lines` of `length` numbers that lie `step` apart.
template <class T>
bool describe_matrix(MatrixMap& to, const T* data, Index lines, Index length, Index step,
                     cuuint32_t high = 64) {
  const auto encode = tensor_map_encoder();
  if (encode == nullptr) return false;
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(length), static_cast<cuuint64_t>(lines)};
  const cuuint64_t strides[1] = {sizeof(T) * static_cast<cuuint64_t>(step)};
  const cuuint32_t box[2] = {64, high}, steps[2] = {1, 1};
  return encode(&to.map,
                std::is_same_v<T, BFloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, const_cast<T*>(data), extents, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// c [M, N] = a·b of a [M, K], whose rows are contiguous, and b [K, N], whose rows or columns are.
template <bool RightRows_, int Stages_>
struct TileProduct {
  static constexpr bool RightRows = RightRows_;  // b has contiguous rows
  static constexpr int Rows = 128, Columns = 128, Depth = 64;
  static constexpr int Groups = 2, Halves = Rows / 64, Cluster = 2, Stages = Stages_;
  static constexpr int threads = 128 * (Groups + 1);
  static constexpr int panel = 64 * 64 * 2;  // bytes
  static constexpr int left_panels = Rows / 64, right_panels = Columns / 64;
  static constexpr int stage = (left_panels + right_panels) * panel;
};
struct TileCounts {
  int rows, columns, depth;  // tiles of rows and columns, and stages of a tile
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// Arrives at a barrier of the block of that rank in the cluster.
__device__ inline void arrive_at(SharedBarrier& barrier, int rank) {
  asm volatile(
      "{.reg .b32 other;\n"
      "mapa.shared::cluster.u32 other,%0,%1;\n"
      "mbarrier.arrive.shared::cluster.b64 _,[other];}" ::"r"(shared_address(&barrier)),
      "r"(rank)
      : "memory");
}
__device__ inline void meet_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
/// Begins to copy a panel, by one thread, to the same place in each of the first `Blocks` blocks of
/// the cluster, whose barriers wait for it.
template <int Blocks>
__device__ void copy_panel(void* to, const MatrixMap& from, int column, int row,
                           SharedBarrier& full) {
  if constexpr (Blocks == 1)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0],[%1,{%2,%3}],[%4];" ::"r"(shared_address(to)),
        "l"(&from.map), "r"(column), "r"(row), "r"(shared_address(&full))
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0],[%1,{%2,%3}],[%4],%5;" ::"r"(shared_address(to)),
        "l"(&from.map), "r"(column), "r"(row), "r"(shared_address(&full)),
        "h"(static_cast<unsigned short>((1 << Blocks) - 1))
        : "memory");
}
/// Begins to write a panel that show_copies_to_products was called for, by one thread. Groups of
/// such writes end with commit_panels.
__device__ inline void write_panel(const MatrixMap& to, unsigned from, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0,{%1,%2}],[%3];" ::"l"(&to.map),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}
__device__ inline void commit_panels() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until all that the thread committed has been read from shared memory.
__device__ inline void wait_for_panel_reads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

#endif

/// The tiles of a block, in the order of their rows.
template <class Product>
struct TileWalk {
  TileCounts count;
  int cluster, clusters, rank;

  __device__ explicit TileWalk(const TileCounts& of)
      : count(of),
        cluster(static_cast<int>(blockIdx.x / Product::Cluster)),
        clusters(static_cast<int>(gridDim.x / Product::Cluster)),
        rank(static_cast<int>(blockIdx.x % Product::Cluster)) {}
  __device__ int tile(int turn) const { return cluster + turn * clusters; }
  __device__ bool has(int tile) const {
    return tile < (count.rows + Product::Cluster - 1) / Product::Cluster * count.columns;
  }
  __device__ int row(int tile) const {
    return (tile / count.columns * Product::Cluster + rank) * Product::Rows;
  }
  __device__ int column(int tile) const { return tile % count.columns * Product::Columns; }
};

/// Epilogue: `bytes` of shared memory, `own`, are each group's. Where it `reads_ahead`, copy(own,
/// row, column, full) brings what the end of a tile needs there, when each warp has let go of what
/// the group's tile before left there: release(vacant). end(sums, own, shared, row, column, group)
/// has the tile's sums, of a lane those of PlaceOfSums; finish() comes last.
template <class T, class Product, class Epilogue>
__global__ void __launch_bounds__(Product::threads, 1)
    tile_product_kernel(const __grid_constant__ MatrixMap left,
                        const __grid_constant__ MatrixMap right, TileCounts count,
                        const __grid_constant__ Epilogue epilogue) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  constexpr int Stages = Product::Stages, Cluster = Product::Cluster, Groups = Product::Groups;
  extern __shared__ __align__(1024) unsigned char panels[];
  __shared__ SharedBarrier full[Stages], empty[Stages], ahead[Groups], vacant[Groups];
  __shared__ typename Epilogue::Shared scratch;
  const auto own_of = [&](int g) { return panels + Stages * Product::stage + g * Epilogue::bytes; };
  let_successor_begin();
  const int group = alike_in_warp(static_cast<int>(threadIdx.x / 128));
  const int lane = static_cast<int>(threadIdx.x % 32);
  const TileWalk<Product> walk(count);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Stages; ++i) {
      start(full[i], 1);
      start(empty[i], 4 * Cluster);  // the warps of one group, in every block
    }
    for (int g = 0; g < Groups; ++g) {
      start(ahead[g], 1);
      start(vacant[g], 4);
    }
    show_barriers();
  }
  __syncthreads();
  meet_cluster();
  wait_for_predecessors();
  if (group == 0) {
    shrink_registers<40>();
    if constexpr (Epilogue::reads_ahead)
      if (threadIdx.x == 32) {
#pragma unroll 1
        for (int turn = 0; walk.has(walk.tile(turn)); ++turn) {
          const int g = turn % Groups, round = turn / Groups;
          if (round > 0) wait_for_phase(vacant[g], static_cast<unsigned>(round - 1));
          epilogue.copy(own_of(g), walk.row(walk.tile(turn)), walk.column(walk.tile(turn)),
                        ahead[g]);
        }
      }
    if (threadIdx.x == 0) {
      unsigned step = 0;
#pragma unroll 1
      for (int turn = 0; walk.has(walk.tile(turn)); ++turn) {
        const int row = walk.row(walk.tile(turn)), column = walk.column(walk.tile(turn));
#pragma unroll 1
        for (int k = 0; k < count.depth; ++k, ++step) {
          const unsigned stage = step % Stages, round = step / Stages;
          if (round > 0) wait_for_phase(empty[stage], round - 1);
          expect(full[stage], Product::stage);
          unsigned char* const to = panels + stage * Product::stage;
          const int depth = k * Product::Depth;
#pragma unroll
          for (int i = 0; i < Product::left_panels; ++i)
            copy_panel<1>(to + i * Product::panel, left, depth, row + 64 * i, full[stage]);
#pragma unroll
          for (int i = 0; i < Product::right_panels; ++i)
            if (i % Cluster == walk.rank) {
              const int first = column + 64 * i;
              copy_panel<Cluster>(to + (Product::left_panels + i) * Product::panel, right,
                                  Product::RightRows ? first : depth,
                                  Product::RightRows ? depth : first, full[stage]);
            }
        }
      }
    }
  } else {
    grow_registers<232>();
    // How far 16 numbers of the inner axis are, in the units of a description.
    constexpr int left_step = 32 >> 4, right_step = Product::RightRows ? 2048 >> 4 : 32 >> 4;
    float sums[Product::Halves][Product::Columns / 8][4];
    const auto release = [&](unsigned stage) {
      if (lane < Cluster) arrive_at(empty[stage], lane);
    };
#pragma unroll 1
    for (int turn = group - 1; walk.has(walk.tile(turn)); turn += Groups) {
      const int row = walk.row(walk.tile(turn)), column = walk.column(walk.tile(turn));
      if constexpr (Epilogue::reads_ahead)
        if (turn >= Groups) epilogue.release(vacant[group - 1]);
      // A barrier tells a phase from the one before alone: stages are waited for in their order.
      if (turn > 0) meet(1 + group, 256);
      const unsigned step = static_cast<unsigned>(turn * count.depth);
      unsigned stage = step % Stages, round = step / Stages, before = stage;
#pragma unroll 1
      for (int k = 0; k < count.depth; ++k) {
        wait_for_phase(full[stage], round);
        const unsigned char* const from = panels + stage * Product::stage;
        const auto a = describe_panels(from, Product::panel);
        const auto b =
            describe_panels(from + Product::left_panels * Product::panel, Product::panel);
#pragma unroll
        for (int h = 0; h < Product::Halves; ++h) hold(sums[h]);
        begin_products();
#pragma unroll
        for (int i = 0; i < Product::Depth / 16; ++i)
#pragma unroll
          for (int h = 0; h < Product::Halves; ++h) {
            const auto half = a + i * left_step + h * (Product::panel >> 4);
            if constexpr (Product::RightRows)
              multiply_shared_rows<T>(sums[h], half, b + i * right_step, k > 0 || i > 0);
            else
              multiply_shared<T>(sums[h], half, b + i * right_step, k > 0 || i > 0);
          }
        end_products();
#pragma unroll
        for (int h = 0; h < Product::Halves; ++h) hold(sums[h]);
        if (k > 0) {
          wait_for_products<1>();
          release(before);
        }
        before = stage;
        if (++stage == Stages) stage = 0, ++round;
      }
      if (walk.has(walk.tile(turn + 1))) announce(1 + group % Groups + 1, 256);
      wait_for_products<0>();
#pragma unroll
      for (int h = 0; h < Product::Halves; ++h) hold(sums[h]);
      release(before);
      if constexpr (Epilogue::reads_ahead)
        wait_for_phase(ahead[group - 1], static_cast<unsigned>(turn / Groups));
      epilogue.end(sums, own_of(group - 1), scratch, row, column, group - 1);
    }
    epilogue.finish();
  }
  __syncwarp();
  meet_cluster();  // before a block ends whose barriers others arrive at
#endif
}

/// Launches a product; false where the device has no code for it, or the driver refuses.
/// left   [rows, inner]      right   [columns, inner] or, of contiguous rows, [inner, columns]
template <class Product, class T, class Epilogue>
bool multiply_by_tiles(const View<const T, 2, CudaSpace>& left,
                       const View<const T, 2, CudaSpace>& right, Index columns,
                       const Epilogue& epilogue, Stream stream, const char* operation) {
  const auto kernel = tile_product_kernel<T, Product, Epilogue>;
  struct Name {};
  MatrixMap a, b;
  if (!has_shared_barriers<Name>(kernel, operation) ||
      !describe_matrix(a, left.data(), left.extent(0), left.extent(1), left.stride(0)) ||
      !describe_matrix(b, right.data(), right.extent(0), right.extent(1), right.stride(0)))
    return false;
  const auto tiles = [](Index extent, int size) {
    return static_cast<int>((extent + size - 1) / size);
  };
  const TileCounts count{tiles(left.extent(0), Product::Rows), tiles(columns, Product::Columns),
                         tiles(left.extent(1), Product::Depth)};
  constexpr int Cluster = Product::Cluster;
  const int clusters = std::min((count.rows + Cluster - 1) / Cluster * count.columns,
                                multiprocessors(operation) / Cluster);
  constexpr std::size_t bytes =
      Product::Stages * Product::stage + Product::Groups * Epilogue::bytes;
  launch_early<Name>(kernel, dim3(static_cast<unsigned>(clusters * Cluster)),
                     {Product::threads, bytes, Cluster}, stream, operation, a, b, count, epilogue);
  return true;
}

}  // namespace ssm::cuda::device
