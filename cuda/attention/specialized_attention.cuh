// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attention_forward.cuh"
#include "attention/tile_map.cuh"

namespace ssm::cuda::device {

/// One warpgroup copies keys and values, `Stages` tiles of `N` of each; `Groups` others have 64
/// queries each and may multiply in turn. With two stages of queries a block goes from tile to tile
/// of them.
template <class Tiles_, int Groups_, int N_, int Stages_, bool TakesTurns_, int QueryStages_ = 1>
struct SpecializedShape {
  using Tiles = Tiles_;
  static constexpr int Width = Tiles::Width, Groups = Groups_, N = N_, Stages = Stages_;
  static constexpr bool TakesTurns = TakesTurns_;
  static constexpr int QueryStages = QueryStages_;
  static constexpr bool persists = QueryStages > 1;
  static constexpr int queries = 64 * Groups, threads = 128 * (Groups + 1);
  /// Registers of a thread that copies, and of one that multiplies.
  static constexpr int few = Groups == 2 ? 24 : 32, many = Groups == 2 ? 240 : 160;
  static constexpr std::size_t bytes =
      2 * (QueryStages * std::size_t{Tiles::size(queries)} + 2 * Stages * Tiles::size(N));
};

struct ForwardMaps {
  TileMap q, k, v;
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS
/// A warp's copies of a tile of queries, and of tiles of the keys and values that they see.
template <class T, class Shape>
struct ForwardCopier {
  using Tiles = typename Shape::Tiles;
  __device__ ForwardCopier(const ForwardOperands<T>& a, const ForwardMaps& maps,
                           const AttentionRows& rows, const AttentionKeys& seen)
      : queries(maps.q, rows.sequence.batch, rows.sequence.begin + rows.first, rows.head,
                &a.q(rows.sequence.batch, rows.sequence.begin + rows.first, rows.head, 0),
                a.q.strides[1], a.width),
        keys(maps.k, seen.batch, seen.begin, rows.head, &a.k(seen.batch, seen.begin, rows.head, 0),
             a.k.strides[1], a.width),
        values(maps.v, seen.batch, seen.begin, rows.head,
               &a.v(seen.batch, seen.begin, rows.head, 0), a.v.strides[1], a.width),
        there(static_cast<int>(seen.cached + rows.sequence.end - rows.sequence.begin)),
        only(seen.begin + there != a.positions) {}

  __device__ void copy_values(T* tile, int first, SharedBarrier& full) const {
    values.copy(tile, first, there - first, only, full);
  }

  TileCopier<Tiles, Shape::queries, T> queries;
  TileCopier<Tiles, Shape::N, T> keys, values;
  // Values that no query may read, behind those of the sequence, may be anything.
  int there;
  bool only;
};
#endif

/// As forward_kernel, of all keys at once. While one warpgroup multiplies, another makes its
/// weights; what a warpgroup's weights before meet is under way meanwhile, too.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::threads, 1)
    specialized_kernel(const __grid_constant__ ForwardOperands<T> a,
                       const __grid_constant__ ForwardMaps maps) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Tiles = typename Shape::Tiles;
  constexpr int Width = Shape::Width, N = Shape::N, Stages = Shape::Stages,
                queries = Shape::queries;
  constexpr int QueryStages = Shape::QueryStages, size = Tiles::size(N);
  constexpr int query_size = Tiles::size(queries);
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const q_tiles = reinterpret_cast<T*>(shared);
  T* const k_tiles = q_tiles + QueryStages * query_size;
  T* const v_tiles = k_tiles + Stages * size;
  __shared__ SharedBarrier q_full[QueryStages], q_empty[QueryStages], k_full[Stages],
      k_empty[Stages], v_full[Stages], v_empty[Stages];
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * Shape::Groups;
    for (int i = 0; i < QueryStages; ++i) start(q_full[i], 1), start(q_empty[i], warps);
    for (int i = 0; i < Stages; ++i) {
      start(k_full[i], 1), start(k_empty[i], warps);
      start(v_full[i], 1), start(v_empty[i], warps);
    }
    show_barriers();
  }
  __syncthreads();

  /// f(rows) of the block's tiles of queries: forth and back through those of all blocks, so that
  /// who had a long walk gets a short one.
  const auto each_tile = [&](auto f) {
    if constexpr (Shape::persists) {
      const auto count = static_cast<unsigned>(a.tiles.count(queries));
      const unsigned together = count / static_cast<unsigned>(a.tiles.tiles(queries));
      for (unsigned round = 0; round * gridDim.x < count; ++round) {
        const unsigned place = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
        const unsigned number = round * gridDim.x + place;
        if (number >= count) continue;
        const AttentionRows rows = a.tiles.at(number, queries, a.sequences.packing, together);
        if (rows.count > 0) f(rows);
      }
    } else {
      const AttentionRows rows = a.tiles.at(blockIdx.x, queries, a.sequences.packing);
      if (rows.count > 0) f(rows);
    }
  };
  if (threadIdx.x < 128) {
    shrink_registers<Shape::few>();
    if (threadIdx.x >= 32) return;
    unsigned keys_before = 0, queries_before = 0;  // tiles
    each_tile([&](const AttentionRows& rows) {
      const AttentionKeys keys = a.sequences.keys(rows.sequence);
      const int end = static_cast<int>(keys.cached + rows.first) + rows.count;
      const ForwardCopier<T, Shape> next(a, maps, rows, keys);
      const auto load_keys = [&](unsigned tile) {
        const unsigned stage = (keys_before + tile) % Stages, use = (keys_before + tile) / Stages;
        if (use > 0) wait_for_phase(k_empty[stage], use - 1);
        next.keys.copy(k_tiles + stage * size, static_cast<int>(tile) * N, k_full[stage]);
      };
      const auto load_values = [&](unsigned tile) {
        const unsigned stage = (keys_before + tile) % Stages, use = (keys_before + tile) / Stages;
        if (use > 0) wait_for_phase(v_empty[stage], use - 1);
        next.copy_values(v_tiles + stage * size, static_cast<int>(tile) * N, v_full[stage]);
      };
      const unsigned q_stage = queries_before % QueryStages, q_use = queries_before / QueryStages;
      if (q_use > 0) wait_for_phase(q_empty[q_stage], q_use - 1);
      next.queries.copy(q_tiles + q_stage * query_size, 0, q_full[q_stage]);
      load_keys(0);
      const unsigned tiles = static_cast<unsigned>(end + N - 1) / N;
      for (unsigned tile = 1; tile < tiles; ++tile) {
        load_keys(tile);
        load_values(tile - 1);
      }
      load_values(tiles - 1);
      keys_before += tiles, ++queries_before;
    });
    return;
  }

  grow_registers<Shape::many>();
  const int group = alike_in_warp(static_cast<int>(threadIdx.x / 128) - 1);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int own = static_cast<int>(threadIdx.x - 128) / 32 * 16;  // the warp's first query
  const float scale = a.scale * kLog2E;
  constexpr int turn_threads = 256, first_turn = 1, own_barrier = 1 + Shape::Groups;
  const auto wait_for_turn = [&] {
    if constexpr (Shape::TakesTurns) meet(first_turn + group, turn_threads);
  };
  const auto give_turn = [&] {
    if constexpr (Shape::TakesTurns)
      announce(first_turn + (group + 1 == Shape::Groups ? 0 : group + 1), turn_threads);
  };
  const auto release = [&](SharedBarrier& empty) {
    if (lane == 0) arrive(empty);
  };
  if (Shape::TakesTurns && group == Shape::Groups - 1) give_turn();

  unsigned tile = 0, queries_before = 0;  // the tile of keys that the weights are of
  each_tile([&](const AttentionRows& rows) {
    const Index b = rows.sequence.batch, h = rows.head, t0 = rows.sequence.begin + rows.first;
    // Keys before the first query's.
    const int before = static_cast<int>(a.sequences.keys(rows.sequence).cached + rows.first);
    const int end = before + rows.count;
    const unsigned q_stage = queries_before % QueryStages;
    T* const q_tile = q_tiles + q_stage * query_size;
    float sums[1][Width / 8][4], scores[1][N / 8][4];
    unsigned weights[1][N / 16][4];
    OnlineSoftmax<1, N> softmax;
    set_zero(sums);
    const int seen = before + own + 1;  // keys that the warp's first query sees
    wait_for_phase(q_full[q_stage], queries_before / QueryStages);
    wait_for_phase(k_full[tile % Stages], tile / Stages);
    multiply_transposed<Tiles, queries>(scores, q_tile, 64 * group, k_tiles + tile % Stages * size);
    release(k_empty[tile % Stages]);
    softmax.add(scores, scale, {seen, end});
    pack_sums<T>(weights, scores);
    wait_for_phase(v_full[tile % Stages], tile / Stages);
    for (int first = N; first < end; first += N) {
      const unsigned last = tile % Stages, stage = ++tile % Stages, use = tile / Stages;
      wait_for_phase(k_full[stage], use);
      wait_for_turn();
      begin_transposed<Tiles, queries>(scores, q_tile, 64 * group, k_tiles + stage * size);
      begin_add<Tiles>(sums, weights, v_tiles + last * size);
      give_turn();
      finish<Tiles, 1>(scores);
      release(k_empty[stage]);
      softmax.add(scores, scale, {seen - first, end - first});
      wait_for_phase(v_full[stage],
                     use);  // before the sums, so that no weights are made behind them
      finish<Tiles, 0>(sums);
      release(v_empty[last]);
      softmax.rescale_sums(sums);
      pack_sums<T>(weights, scores);
    }
    begin_add<Tiles>(sums, weights, v_tiles + tile % Stages * size);
    finish<Tiles, 0>(sums);

    if constexpr (Shape::persists) release(v_empty[tile % Stages]);
    ++tile;
    meet(own_barrier + group, 128);  // the warpgroup has read its queries
    float factor[2];
    finish_softmax(a, softmax, rows, t0, own, scale, factor);
    store_sums<Tiles, queries>(q_tile, own, sums[0], factor[0], factor[1], &a.y(b, t0 + own, h, 0),
                               a.y.strides[1], rows.count - own, a.width);
    if constexpr (Shape::persists) {
      Tiles::show_copies();
      __syncwarp();
      release(q_empty[q_stage]);
    }
    ++queries_before;
  });
  // The turn that the last warpgroup gave, or was given, at the end is taken.
  if (Shape::TakesTurns && group == 0) wait_for_turn();
#endif
}

}  // namespace ssm::cuda::device
