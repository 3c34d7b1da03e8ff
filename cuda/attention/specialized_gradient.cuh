// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/attention_gradient.cuh"
#include "attention/tile_map.cuh"
#include "ssm/backend/cuda/tiled_attention.hpp"

namespace ssm::cuda::device {

/// Two warpgroups have 64 keys each, and walk over tiles of 64 queries that a third copies.
template <int Width>
struct SpecializedGradient {
  using Tiles = WarpgroupTiles<Width>;
  using Square = WarpgroupTiles<64>;
  static constexpr int keys = 128, N = AttentionDqTiles::queries, threads = 384, stages = 2;
  static constexpr int few = 40, many = 232;
  static constexpr int tile_floats = N * Width;
  /// k and v; stages of q and dy; ds twice; a part of dq; query_numbers.
  static constexpr std::size_t bytes =
      2 * (2 * Tiles::size(keys) + 2 * stages * Tiles::size(N) + 2 * Square::size(keys)) +
      sizeof(float) * tile_floats + stages * 2 * N * sizeof(float);
};

struct GradientMaps {
  TileMap q, k, v, dy;
};

/// dk and dv of a tile of keys, and what it adds to dq. Tiles of keys add to a tile of queries in
/// turn, the last keys first, as they reach it: a block waits only for those before it. The last
/// section of heads is turned around, so that no long walk is the last to begin: the first keys
/// come first, and walk from the last queries on.
template <class T, int Width>
__global__ void __launch_bounds__(SpecializedGradient<Width>::threads, 1)
    specialized_gradient_kernel(const __grid_constant__ GradientOperands<T> g,
                                const __grid_constant__ GradientMaps maps) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = SpecializedGradient<Width>;
  using Tiles = typename Shape::Tiles;
  using Square = typename Shape::Square;
  constexpr int N = Shape::N, Stages = Shape::stages, Keys = Shape::keys;
  constexpr int size = Tiles::size(N), tile_floats = Shape::tile_floats;
  extern __shared__ __align__(1024) unsigned char shared[];
  T* const k_tile = reinterpret_cast<T*>(shared);
  T* const v_tile = k_tile + Tiles::size(Keys);
  T* const q_tiles = v_tile + Tiles::size(Keys);
  T* const dy_tiles = q_tiles + Stages * size;
  T* const ds_tiles = dy_tiles + Stages * size;
  float* const dq_part = reinterpret_cast<float*>(ds_tiles + 2 * Square::size(Keys));
  float* const numbers = dq_part + tile_floats;  // of a stage, as query_numbers
  __shared__ SharedBarrier keys_full, q_full[Stages], q_empty[Stages], dy_full[Stages],
      dy_empty[Stages], dq_full[2], dq_empty;
  if (threadIdx.x == 0) {
    start(keys_full, 2), start(dq_empty, 1), start(dq_full[0], 8), start(dq_full[1], 8);
    for (int i = 0; i < Stages; ++i) {
      start(q_full[i], 2), start(q_empty[i], 256);
      start(dy_full[i], 1), start(dy_empty[i], 8);
    }
    show_barriers();
  }
  __syncthreads();

  unsigned number = gridDim.x - 1 - blockIdx.x;
  const auto section = static_cast<unsigned>(g.key_tiles.section(Keys));
  const unsigned turned = section < gridDim.x ? section : gridDim.x;
  const bool is_turned = number < turned;
  if (is_turned) number = turned - 1 - number;
  const AttentionRows rows = g.key_tiles.at(number, Keys, g.sequences.packing);
  if (rows.count <= 0) return;
  const Sequence& sequence = rows.sequence;
  const AttentionKeys keys = g.sequences.keys(sequence);
  const Index b = sequence.batch, h = rows.head, s0 = keys.begin + rows.first;
  const int queries = static_cast<int>(sequence.end - sequence.begin);
  const int cached = static_cast<int>(keys.cached), first_key = static_cast<int>(rows.first);
  // Keys that no query sees may be anything: they are taken as zeros.
  const int last_seen = cached + queries - first_key;
  const int seen = last_seen < rows.count ? last_seen : rows.count;
  const int begin = seen <= 0 ? queries : first_key > cached ? (first_key - cached) / N * N : 0;
  const auto steps = static_cast<unsigned>(alike_in_warp((queries - begin + N - 1) / N));
  const auto first_query = [&](unsigned step) {
    return begin + N * static_cast<int>(is_turned ? steps - 1 - step : step);
  };

  if (threadIdx.x < 128) {
    shrink_registers<Shape::few>();
    if (threadIdx.x < 32) {
      const bool only_keys = keys.begin + cached + queries != g.positions;
      const bool only_queries = sequence.end != g.sequences.packing.length;
      TileCopier<Tiles, Keys, T>(maps.k, keys.batch, s0, h, &g.k(keys.batch, s0, h, 0),
                                 g.k.strides[1], g.width)
          .copy(k_tile, 0, seen, only_keys, keys_full);
      TileCopier<Tiles, Keys, T>(maps.v, keys.batch, s0, h, &g.v(keys.batch, s0, h, 0),
                                 g.v.strides[1], g.width)
          .copy(v_tile, 0, seen, only_keys, keys_full);
      const Index t0 = sequence.begin;
      const TileCopier<Tiles, N, T> next_q(maps.q, b, t0, h, &g.q(b, t0, h, 0), g.q.strides[1],
                                           g.width);
      const TileCopier<Tiles, N, T> next_dy(maps.dy, b, t0, h, &g.dy(b, t0, h, 0), g.dy.strides[1],
                                            g.width);
      for (unsigned step = 0; step < steps; ++step) {
        const unsigned stage = step % Stages, use = step / Stages;
        const int first = first_query(step), count = queries - first;
        if (use > 0) wait_for_phase(q_empty[stage], use - 1);
        if (threadIdx.x == 0)
          copy_bulk(numbers + stage * 2 * N, g.numbers(sequence, h, first), 2 * N * sizeof(float),
                    q_full[stage]);
        next_q.copy(q_tiles + stage * size, first, count, only_queries, q_full[stage]);
        if (use > 0) wait_for_phase(dy_empty[stage], use - 1);
        next_dy.copy(dy_tiles + stage * size, first, count, only_queries, dy_full[stage]);
      }
    } else if (threadIdx.x >= 64 && threadIdx.x % 32 == 0) {
      // Two threads add to dq, as what one has added takes a while to be seen.
      const unsigned writer = threadIdx.x / 32 - 2;
      const int own = first_key / Keys, last = (cached + queries - 1) / Keys;
      const Index tile0 = g.query_tiles.first_tile(sequence, h, N);
      for (unsigned step = writer; step < steps; step += 2) {
        const int first = first_query(step);
        const Index tile = tile0 + first / N;
        const int latest = (cached + first + N - 1) / Keys;
        const int turn = is_turned ? own : (latest < last ? latest : last) - own;
        float* const to = g.dq_parts + tile * tile_floats;
        wait_for_phase(dq_full[writer], step / 2);
        if (turn == 0) {
          write_bulk(to, dq_part, tile_floats * 4);
        } else {
          wait_for_number(g.turns + tile, turn);
          add_bulk(to, dq_part, tile_floats * 4);
        }
        finish_bulk_reads();
        arrive(dq_empty);
        finish_bulk_copies();
        pass_number(g.turns + tile, turn + 1);
      }
    }
    return;
  }

  grow_registers<Shape::many>();
  const int thread = static_cast<int>(threadIdx.x) - 128, lane = thread % 32;
  const int group = alike_in_warp(thread / 128), own = thread / 32 * 16;
  const int first_own = first_key + own - cached;  // the first query that sees the first own key
  const float scale = g.scale * kLog2E;
  const auto release = [&](SharedBarrier& empty) {
    if (lane == 0) arrive(empty);
  };
  float dk_sums[1][Width / 8][4], dv_sums[1][Width / 8][4];
  set_zero(dk_sums);
  set_zero(dv_sums);
  wait_for_phase(keys_full, 0);
  // Scores are made a step ahead, while what the step before adds to dq is written.
  float scores[1][N / 8][4];
  if (steps > 0) wait_for_phase(q_full[0], 0);
  begin_transposed<Tiles, Keys>(scores, k_tile, 64 * group, q_tiles);
  finish<Tiles, 0>(scores);
  for (unsigned step = 0; step < steps; ++step) {
    const unsigned stage = step % Stages, use = step / Stages;
    const int first = first_query(step);
    T* const q_tile = q_tiles + stage * size;
    T* const dy_tile = dy_tiles + stage * size;
    T* const ds_tile = ds_tiles + step % 2 * Square::size(Keys);
    float toward[1][N / 8][4];
    wait_for_phase(dy_full[stage], use);
    begin_transposed<Tiles, Keys>(toward, v_tile, 64 * group, dy_tile);
    // Scores become weights; where queries do not see keys, 0.
    const auto number = [&](int which, int n) {
      return *reinterpret_cast<const float2*>(numbers + stage * 2 * N + 16 * n + lane % 4 * 4 +
                                              2 * which);
    };
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const float2 base = number(0, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& score = scores[0][n][i];
        score = power_of_two(score * scale - (i % 2 == 0 ? base.x : base.y));
      }
    }
    if (first < first_own + 15) {
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (first + 8 * n + lane % 4 * 2 + i % 2 < first_own + lane / 4 + i / 2 * 8)
            scores[0][n][i] = 0;
    }
    unsigned factors[1][N / 16][4], key_factors[1][N / 16][4];
    pack_sums<T>(factors, scores);
    finish<Tiles, 0>(toward);
    begin_add<Tiles>(dv_sums, factors, dy_tile);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const float2 aligned = number(1, n);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        scores[0][n][i] *= toward[0][n][i] - (i % 2 == 0 ? aligned.x : aligned.y);
    }
    pack_sums<T>(key_factors, scores);
#pragma unroll
    for (int i = 0; i < N / 16; ++i)
      store_tiles(key_factors[0][i],
                  Square::template at<Keys>(ds_tile, own + lane % 16, 16 * i + lane / 16 * 8));
    begin_add<Tiles>(dk_sums, key_factors, q_tile);
    Tiles::show_copies();
    meet(1, 256);  // ds of all keys is there
    constexpr int own_channels = Width / 2;
    float dq_sums[1][own_channels / 8][4];  // of all the tile's queries
    Square::template begin_both_transposed<Keys>(
        dq_sums[0], ds_tile, Tiles::template at<Keys>(k_tile, 0, group * own_channels));
    finish<Tiles, 1>(dv_sums);
    finish<Tiles, 1>(dk_sums);
    release(dy_empty[stage]);
    // By all that read numbers: racecheck takes the arrival of a thread for its own reads alone.
    arrive(q_empty[stage]);
    const unsigned next = (step + 1) % Stages;  // behind the last, scores that nothing reads
    if (step + 1 < steps) wait_for_phase(q_full[next], (step + 1) / Stages);
    begin_transposed<Tiles, Keys>(scores, k_tile, 64 * group, q_tiles + next * size);
    finish<Tiles, 1>(dq_sums);
    if (step > 0) wait_for_phase(dq_empty, step - 1);
    float4* const to =
        reinterpret_cast<float4*>(dq_part) + group * own_channels / 8 * 128 + thread % 128;
#pragma unroll
    for (int n = 0; n < own_channels / 8; ++n)
      to[128 * n] = {dq_sums[0][n][0], dq_sums[0][n][1], dq_sums[0][n][2], dq_sums[0][n][3]};
    Tiles::show_copies();
    __syncwarp();
    release(dq_full[step % 2]);
    finish<Tiles, 0>(scores);
  }
  meet(2, 256);  // all have read the keys
  const int count = rows.count - own;
  store_sums<Tiles, Keys>(k_tile, own, dk_sums[0], g.scale, g.scale,
                          &g.dk(keys.batch, s0 + own, h, 0), g.dk.strides[1], count, g.width);
  store_sums<Tiles, Keys>(k_tile, own, dv_sums[0], 1.0f, 1.0f, &g.dv(keys.batch, s0 + own, h, 0),
                          g.dv.strides[1], count, g.width);
#endif
}

/// dq from dq_parts; a block has a tile of 64 queries.
template <class T, int Width>
__global__ void __launch_bounds__(256) gather_dq_kernel(const GradientOperands<T> g) {
  constexpr int N = SpecializedGradient<Width>::N, threads = 256;
  constexpr int floats = SpecializedGradient<Width>::tile_floats;
  __shared__ __align__(16) T tile[N][Width + 8];
  const AttentionRows rows = g.query_tiles.at(blockIdx.x, N, g.sequences.packing);
  if (rows.count <= 0) return;
  const Index number = g.query_tiles.first_tile(rows.sequence, rows.head, N) + rows.first / N;
  const float4* const from = reinterpret_cast<const float4*>(g.dq_parts + number * floats);
#pragma unroll
  for (int i = 0; i < floats / 4 / threads; ++i) {
    const int place = i * threads + static_cast<int>(threadIdx.x);
    const int lane = place % 32, t = place / 32 % 4 * 16 + lane / 4;
    const int channel = place / 128 * 8 + lane % 4 * 2;
    const float4 sum = from[place];
    reinterpret_cast<unsigned&>(tile[t][channel]) = pack<T>(sum.x * g.scale, sum.y * g.scale);
    reinterpret_cast<unsigned&>(tile[t + 8][channel]) = pack<T>(sum.z * g.scale, sum.w * g.scale);
  }
  __syncthreads();
  T* const to = &g.dq(rows.sequence.batch, rows.sequence.begin + rows.first, rows.head, 0);
#pragma unroll
  for (int i = 0; i < N * Width / 8 / threads; ++i) {
    const int place = i * threads + static_cast<int>(threadIdx.x);
    const int t = place / (Width / 8), channel = place % (Width / 8) * 8;
    if (t < rows.count && channel < g.width)
      *reinterpret_cast<uint4*>(to + t * g.dq.strides[1] + channel) =
          *reinterpret_cast<const uint4*>(&tile[t][channel]);
  }
}

}  // namespace ssm::cuda::device
