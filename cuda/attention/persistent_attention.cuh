// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/specialized_attention.cuh"

namespace ssm::cuda::device {

/// One warpgroup copies keys and values, `Stages` tiles of `N` of each; `Groups` others have 64
/// queries each. A block takes one tile of queries after the other.
template <class Tiles_, int Groups_, int N_, int Stages_>
struct PersistentShape {
  using Tiles = Tiles_;
  static constexpr int Width = Tiles::Width, Groups = Groups_, N = N_, Stages = Stages_;
  static constexpr int queries = 64 * Groups, threads = 128 * (Groups + 1);
  /// Registers of a thread that copies, and of one that multiplies.
  static constexpr int few = Groups == 2 ? 40 : 32, many = Groups == 2 ? 232 : 160;
  static constexpr std::size_t bytes =
      2 * (std::size_t{Tiles::size(queries)} + 2 * Stages * Tiles::size(N));
};

/// As specialized_kernel, with the last keys first: those that not all queries see are done with
/// before the long part of the walk. The next tile's queries and keys are copied while this one's
/// last values are met.
/// next_tile   counts the tiles that blocks have begun; null: they go forth and back through them,
///             so that who had a long walk gets a short one
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, 1)
    persistent_kernel(const __grid_constant__ ForwardOperands<T> a,
                      const __grid_constant__ ForwardMaps maps, unsigned* next_tile) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Tiles = typename Shape::Tiles;
  constexpr int Width = Shape::Width, N = Shape::N, Stages = Shape::Stages,
                queries = Shape::queries;
  constexpr int size = Tiles::size(N);
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const q_tile = reinterpret_cast<T*>(shared);
  T* const k_tiles = q_tile + Tiles::size(queries);
  T* const v_tiles = k_tiles + Stages * size;
  __shared__ SharedBarrier q_full, q_empty, k_full[Stages], k_empty[Stages], v_full[Stages],
      v_empty[Stages], number_full[2], number_empty[2];
  __shared__ unsigned numbers[2];  // of this block's tiles
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * Shape::Groups;
    start(q_full, 1), start(q_empty, warps);
    for (int i = 0; i < 2; ++i) start(number_full[i], 1), start(number_empty[i], warps);
    for (int i = 0; i < Stages; ++i) {
      start(k_full[i], 1), start(k_empty[i], warps);
      start(v_full[i], 1), start(v_empty[i], warps);
    }
    show_barriers();
  }
  __syncthreads();
  const auto count = static_cast<unsigned>(a.tiles.count(queries));
  const unsigned together = next_tile != nullptr
                                ? AttentionTiles::section_heads
                                : count / static_cast<unsigned>(a.tiles.tiles(queries));
  const auto rows_of = [&](unsigned number) {
    return a.tiles.at(number, queries, a.sequences.packing, together);
  };

  if (threadIdx.x < 128) {
    shrink_registers<Shape::few>();
    if (threadIdx.x >= 32) return;
    unsigned keys_before = 0, queries_before = 0;  // tiles
    const auto copy_of = [&](const AttentionRows& rows) {
      const AttentionKeys keys = a.sequences.keys(rows.sequence);
      const int end = static_cast<int>(keys.cached + rows.first) + rows.count;
      const int tiles = (end + N - 1) / N;
      const ForwardCopier<T, Shape> next(a, maps, rows, keys);
      const auto load_keys = [&](int tile) {
        const unsigned done = keys_before + static_cast<unsigned>(tiles - 1 - tile);
        const unsigned stage = done % Stages, use = done / Stages;
        if (use > 0) wait_for_phase(k_empty[stage], use - 1);
        next.keys.copy(k_tiles + stage * size, tile * N, k_full[stage]);
      };
      const auto load_values = [&](int tile) {
        const unsigned done = keys_before + static_cast<unsigned>(tiles - 1 - tile);
        const unsigned stage = done % Stages, use = done / Stages;
        if (use > 0) wait_for_phase(v_empty[stage], use - 1);
        next.copy_values(v_tiles + stage * size, tile * N, v_full[stage]);
      };
      load_keys(tiles - 1);
      if (queries_before > 0) wait_for_phase(q_empty, queries_before - 1);
      next.queries.copy(q_tile, 0, q_full);
      for (int tile = tiles - 2; tile >= 0; --tile) {
        load_keys(tile);
        load_values(tile + 1);
      }
      load_values(0);
      keys_before += static_cast<unsigned>(tiles), ++queries_before;
    };
    unsigned number = blockIdx.x;
    for (unsigned i = 0;; ++i) {
      const unsigned slot = i % 2, use = i / 2;
      if (use > 0) wait_for_phase(number_empty[slot], use - 1);
      if (threadIdx.x == 0) {
        numbers[slot] = number;
        arrive(number_full[slot]);
      }
      if (number >= count) return;
      unsigned next = 0;
      if (next_tile == nullptr)
        next = (i + 1) * gridDim.x + (i % 2 == 1 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
      else if (threadIdx.x == 0)
        next = gridDim.x + atomicAdd(next_tile, 1u);
      const AttentionRows rows = rows_of(number);
      if (rows.count > 0) copy_of(rows);
      number = __shfl_sync(0xffffffffu, next, 0);
    }
  }

  grow_registers<Shape::many>();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int own = static_cast<int>(threadIdx.x - 128) / 32 * 16;  // the warp's first query
  const int own_group = alike_in_warp(own / 64 * 64);             // the warpgroup's
  const float scale = a.scale * kLog2E;
  const auto release = [&](SharedBarrier& empty) {
    if (lane == 0) arrive(empty);
  };
  unsigned tile = 0, queries_before = 0;  // the tile of keys that the weights are of
  const auto attend = [&](const AttentionRows& rows) {
    const Index b = rows.sequence.batch, h = rows.head, t0 = rows.sequence.begin + rows.first;
    // Keys before the first query's.
    const int before = static_cast<int>(a.sequences.keys(rows.sequence).cached + rows.first);
    const int end = before + rows.count;
    float sums[1][Width / 8][4], scores[1][N / 8][4];
    unsigned weights[1][N / 16][4];
    OnlineSoftmax<1, N> softmax;
    set_zero(sums);
    const int seen = before + own + 1;  // keys that the warp's first query sees
    int first = alike_in_warp((end - 1) / N * N);
    wait_for_phase(k_full[tile % Stages], tile / Stages);
    wait_for_phase(q_full, queries_before++);
    multiply_transposed<Tiles, queries>(scores, q_tile, own_group, k_tiles + tile % Stages * size);
    release(k_empty[tile % Stages]);
    if (first == 0) release(q_empty);
    softmax.add_lazily(scores, scale, {seen - first, end - first});
    pack_sums<T>(weights, scores);
    wait_for_phase(v_full[tile % Stages], tile / Stages);
    const auto step = [&](auto sees_all) {
      const unsigned last = tile % Stages, stage = ++tile % Stages, use = tile / Stages;
      wait_for_phase(k_full[stage], use);
      begin_transposed<Tiles, queries>(scores, q_tile, own_group, k_tiles + stage * size);
      begin_add<Tiles>(sums, weights, v_tiles + last * size);
      finish<Tiles, 1>(scores);
      release(k_empty[stage]);
      if (first == 0) release(q_empty);
      if constexpr (decltype(sees_all)::value)
        softmax.add_lazily(scores, scale);
      else
        softmax.add_lazily(scores, scale, {seen - first, end - first});
      wait_for_phase(v_full[stage],
                     use);  // before the sums, so that no weights are made behind them
      finish<Tiles, 0>(sums);
      release(v_empty[last]);
      if (softmax.rises) softmax.rescale_sums(sums);
      pack_sums<T>(weights, scores);
    };
    for (first -= N; first >= 0 && first + N > before + 1; first -= N) step(std::false_type{});
#pragma unroll 1
    for (; first >= 0; first -= N) step(std::true_type{});
    begin_add<Tiles>(sums, weights, v_tiles + tile % Stages * size);
    finish<Tiles, 0>(sums);
    release(v_empty[tile % Stages]);
    ++tile;
    float factor[2];
    finish_softmax(a, softmax, rows, t0, own, scale, factor);
    store_rows<T>(sums[0], factor[0], factor[1], &a.y(b, t0 + own, h, 0), a.y.strides[1],
                  rows.count - own, a.width);
  };
  for (unsigned i = 0;; ++i) {
    const unsigned slot = i % 2;
    wait_for_phase(number_full[slot], i / 2);
    const unsigned number = *const_cast<volatile unsigned*>(numbers + slot);
    __syncwarp();
    release(number_empty[slot]);
    if (number >= count) return;
    const AttentionRows rows = rows_of(number);
    if (rows.count > 0) attend(rows);
  }
#endif
}

}  // namespace ssm::cuda::device
