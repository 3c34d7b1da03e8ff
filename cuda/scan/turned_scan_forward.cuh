// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_forward.cuh"
#include "scan/turned_scan.cuh"

namespace ssm::cuda::device {

/// Shared memory of a block that walks along `Tiles` sequences: their tiles of inputs, of states
/// and of outputs, the Toeplitz matrix, taps. While a channel's matrices are made, its powers lie
/// where states and outputs will.
template <int Tiles>
struct TurnedForward {
  static constexpr int stages = 4;
  static constexpr int resident = Tiles == 1 ? 4 : 3;  // blocks of a multiprocessor
  static constexpr int tile = Tiles * kTurnedBytes;
  static constexpr int states_at = stages * tile;
  static constexpr int outs_at = states_at + 2 * tile;
  static constexpr int toeplitz_at = states_at + (Tiles == 1 ? 20 * 1024 : 4 * tile);
  static constexpr int taps_at = toeplitz_at + kChunk * kChunk * 2;
  static constexpr int bytes = taps_at + TurnedTables::tap_bytes;
  static_assert(states_at + TurnedTables::power_bytes <= toeplitz_at);
};

struct TurnedForwardMaps {
  TurnedMap x, y;
};

/// One warpgroup walks over the sequences that are the block's part of all, `Tiles` side by side.
/// Engine: the copy engine moves their tiles.
template <bool Engine, int Tiles>
__global__ void __launch_bounds__(kTurnedThreads, TurnedForward<Tiles>::resident)
    turned_forward(const __grid_constant__ ForwardLaunch<BFloat16> launch,
                   const __grid_constant__ TurnedForwardMaps maps) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedForward<Tiles>;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  __shared__ SharedBarrier full[Shape::stages];
  unsigned char* const shared = turned_shared;
  const DiagonalScan<BFloat16>& call = launch.call;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4,
            q = lane % 4, mode = 8 * warp + g;
  const bool leads = __shfl_sync(~0u, warp, 0) == 0;  // the warp that asks the copy engine
  const TurnedTables tables{reinterpret_cast<float2*>(shared + Shape::states_at),
                            reinterpret_cast<float*>(shared + Shape::taps_at)};
  const int tiles = (call.shape.length + kTurnedTile - 1) / kTurnedTile;
  const int last_chunk = (call.shape.length - 1) / kChunk - (tiles - 1) * (kTurnedTile / kChunk);
  const unsigned inputs = shared_address(shared), states = inputs + Shape::states_at,
                 outs = inputs + Shape::outs_at, toeplitz = inputs + Shape::toeplitz_at;
  const unsigned place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile;
  const auto left_of = [&](int tile) { return tile == tiles - 1 ? rest : kTurnedTile; };
  const auto advance = [&](auto& walk, int& tile) {
    const bool within = tile < tiles - 1;
    walk.move(within ? 0 : Tiles, within ? 1 : 1 - tiles);
    tile = within ? tile + 1 : 0;
  };
  TurnedTiles<Engine, const BFloat16> x(call.x, maps.x);
  TurnedTiles<Engine, BFloat16> y(call.y, maps.y);
  unsigned base = 0;  // tiles before those of a channel
  const auto tile_at = [&](unsigned k) {
    return inputs + (base + k) % Shape::stages * Shape::tile;
  };
  const long long row_numbers = static_cast<long long>(call.shape.channels) * kModes;
  if constexpr (Engine) {
    if (thread == 0) {
      for (SharedBarrier& tile : full) start(tile, 1);
      show_barriers();
    }
    __syncthreads();
  }
  wait_for_predecessors();
  let_successor_begin();
#pragma unroll 1
  for (TurnedShare share((launch.sequences + Tiles - 1) / Tiles, call.shape.channels);
       share.left > 0; share.advance()) {
    const int channel = share.channel, first = Tiles * share.first;
    const unsigned count = share.here * tiles;
    // From here on the first of two is alone.
    const unsigned alone_from =
        first + Tiles * share.here > launch.sequences ? count - tiles : count;
    const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
    x.enter(first, channel, 0), y.enter(first, channel, 0);
    int now = 0, ahead = 0, s = first;
    const auto bring = [&](unsigned k) {
      if constexpr (Engine) {
        if (!leads || k >= count) return;
        if (is_elected()) {
          SharedBarrier& tile = full[(base + k) % Shape::stages];
          expect(tile, Shape::tile);
          x.template copy<Tiles>(tile_at(k), k >= alone_from, tile);
        }
        advance(x, ahead);
      } else {
        if (k < count) {
          x.template copy<Tiles>(tile_at(k), runs, left_of(ahead), k >= alone_from);
          advance(x, ahead);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
      }
    };
    // Writes the outputs of tile k, which all have stored.
    int written = 0;
    const auto write = [&](unsigned k) {
      const unsigned from = outs + k % 2 * Shape::tile;
      if constexpr (Engine) {
        if (!leads) return;
        if (is_elected()) y.template write<Tiles>(from, k >= alone_from);
      } else {
        y.template write<Tiles>(from, runs, left_of(written), k >= alone_from);
      }
      advance(y, written);
    };
    float2* checkpoint = reinterpret_cast<float2*>(call.checkpoints);
    if (checkpoint != nullptr)
      checkpoint += static_cast<long long>(first) * tiles * row_numbers + channel * kModes + mode;
    TurnedMatrix lift[2], lower;
    TurnedSums<Tiles> v, sum;
    const auto begin_states = [&](unsigned k) {
      begin_products();
      multiply_tile_columns<false>(v, lift[0], name_rows(tile_at(k)));
      multiply_tile_columns<true>(v, lift[1], name_rows(tile_at(k)));
      end_products();
    };
    const auto begin_outputs = [&](unsigned k) {
      begin_products();
      multiply_tile_columns<false>(sum, name_rows(toeplitz), name_rows(tile_at(k)));
      end_products();
    };
    // Tile k can be seen; of asynchronous copies it can since the barrier of the tile before.
    const auto await = [&](unsigned k) {
      if constexpr (Engine) {
        if (k < count) wait_for_phase(full[(base + k) % Shape::stages], (base + k) / Shape::stages);
      }
    };
    bring(0), bring(1), bring(2);
    if (Engine && leads) finish_bulk_reads();
    __syncthreads();  // outputs before have been read
    tables.make<kTurnedThreads / 32>(call.parameters, call.shape.modes, channel, thread);
    __syncthreads();
    tables.sum_taps<kTurnedThreads>(thread, skip);
    make_state_rows(lift, [&](int position) { return tables.lift(mode, position); });
    make_state_columns(lower, [&](int n, int position) { return tables.lower(n, position); });
    const TurnedPowers onward = turned_powers<false>(tables, mode, q);
    __syncthreads();
#pragma unroll
    for (int i = thread; i < kChunk * kChunk / 8; i += kTurnedThreads) {
      const int to = i / 8, piece = i % 8;
      const float* const tap = tables.taps() + to - 8 * piece;
      store_run(toeplitz + to * 128 + (piece ^ to % 8) * 16,
                {pack_bf16(tap[0], tap[-1]), pack_bf16(tap[-2], tap[-3]),
                 pack_bf16(tap[-4], tap[-5]), pack_bf16(tap[-6], tap[-7])});
    }
    if constexpr (!Engine) asm volatile("cp.async.wait_group 1;" ::: "memory");
    show_copies_to_products();
    __syncthreads();
    await(0);
    begin_states(0);
    begin_outputs(0);
    wait_for_products<1>();
    float2 carry[Tiles]{};
    // A tile's states and the products of inputs alone are on their way when its turn comes.
#pragma unroll 1
    for (unsigned k = 0; k < count; ++k) {
      const int here = k < alone_from ? Tiles : 1;
      const auto state_at = [&](int other) {
        return (static_cast<long long>(s + other) * call.shape.channels + channel) *
                   call.shape.modes +
               mode;
      };
      if (now == 0) {
#pragma unroll
        for (int h = 0; h < Tiles; ++h) carry[h] = {0.f, 0.f};
        if (call.initial_state != nullptr && mode < call.shape.modes)
#pragma unroll
          for (int h = 0; h < Tiles; ++h)
            if (h < here) {
              const Complex<float> c = call.initial_state[state_at(h)];
              carry[h] = {c.re, c.im};
            }
      }
      if (checkpoint != nullptr) {
        if (q == 0) {
#pragma unroll
          for (int h = 0; h < Tiles; ++h)
            if (h < here) checkpoint[h * tiles * row_numbers] = carry[h];
        }
        checkpoint += now < tiles - 1 ? row_numbers : (1 + (Tiles - 1) * tiles) * row_numbers;
      }
      unsigned words[8 * Tiles];
      hold(v);
      scan_columns<false>(v, onward, carry);
      if (now == tiles - 1 && call.final_state != nullptr && mode < call.shape.modes)
#pragma unroll
        for (int n = 0; n < 4 * Tiles; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (8 * q + 2 * (n % 4) + i == last_chunk && n / 4 < here)
              call.final_state[state_at(n / 4)] = {v[n][i], v[n][2 + i]};
      pack_columns(v, words);
      store_columns(states + k % 2 * Shape::tile + place, words);
      await(k + 1);
      begin_states(k + 1);
      if constexpr (Engine) {
        if (leads) finish_bulk_reads();  // of the outputs that this tile's will replace
      } else {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
      }
      show_copies_to_products();
      __syncthreads();
      begin_products();
      multiply_tile_columns<true>(sum, lower, name_rows(states + k % 2 * Shape::tile));
      end_products();
      bring(k + 3);
      if (k > 0) write(k - 1);
      wait_for_products<0>();
      hold(sum), hold(v);
      pack_columns(sum, words);
      store_columns(outs + k % 2 * Shape::tile + place, words);
      begin_outputs(k + 1);
      if (now == tiles - 1) s += Tiles;
      now = now < tiles - 1 ? now + 1 : 0;
    }
    wait_for_products<0>();
    if (Engine) show_copies_to_products();
    __syncthreads();
    write(count - 1);
    base += count;
  }
  if constexpr (Engine) {
    if (leads) {
      finish_bulk_reads();
      finish_bulk_copies();
    }
  }
#endif
}

}  // namespace ssm::cuda::device
