// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/turned_scan_walk.cuh"

namespace ssm::cuda::device {

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// Powers of each channel before the walkers want them, and input gradients of their tiles.
template <bool Engine>
__device__ inline void write_gradients(const BackwardLaunch<BFloat16>& launch,
                                       const TurnedBackwardMaps& maps, unsigned char* shared,
                                       TurnedBarriers& barriers, TurnedShare share, int tiles) {
  using Shape = TurnedBackward;
  const DiagonalScanBackward<BFloat16>& call = launch.call;
  const int thread = threadIdx.x % kTurnedThreads, lane = thread % 32, warp = thread / 32,
            g = lane / 4, q = lane % 4;
  const auto synchronize = [] { meet(5, kTurnedThreads); };
  const unsigned memory = shared_address(shared), outs = memory + Shape::outs_at,
                 place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile, last_chunk = (rest - 1) / kChunk;
  const bool leads = __shfl_sync(~0u, warp, 0) == 0;  // the warp that asks the copy engine
  TurnedTiles<Engine, BFloat16> dx(call.dx, maps.dx);
  const auto make_tables = [&](int job, int channel) {
    Shape::tables(shared, job)
        .make<kTurnedThreads / 32>(call.parameters, call.shape.modes, channel, thread);
    arrive(barriers.tables_full[job % 2]);
  };
  make_tables(0, share.channel);
  unsigned base0 = 0, base1 = 0, turn = 0;
  // Where the tile before goes, and how much of it.
  auto written = dx;
  int left = 0;
  // The tile before has been stored: on to memory, while that before it has left its place.
  const auto write = [&] {
    if constexpr (Engine) {
      show_copies_to_products();
      if (leads) finish_bulk_reads();
    }
    synchronize();
    if (left == 0) return;
    if constexpr (Engine) {
      if (leads && is_elected()) written.template write<1>(outs + turn * kTurnedBytes, false);
    } else {
      written.template write<1>(outs + turn * kTurnedBytes, runs, left, false);
    }
  };
#pragma unroll 1
  for (int job = 0; share.left > 0; ++job, share.advance()) {
    const TurnedTables tables = Shape::tables(shared, job);
    const int channel = share.channel;
    const int count0 = count_sequences(share, 0, launch.sequences) * tiles,
              count1 = count_sequences(share, 1, launch.sequences) * tiles;
    const bool more = share.left > share.here;
    if (more) tables.prefetch(call.parameters, call.shape.modes, channel + 1, thread);
    const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
    wait_for_phase(barriers.tables_full[job % 2], job / 2);
    tables.sum_taps<kTurnedThreads>(thread, skip);
    synchronize();
    TurnedMatrix correlate, spread;
    int now = tiles - 1, s = 2 * share.first;
    dx.enter(s, channel, now);
    // The walker's tile k: input gradients to shared memory, those of the tile before to memory.
    const auto make_tile = [&](int walker, unsigned k) {
      const unsigned stage = k % Shape::stages,
                     at = memory + (walker * Shape::stages + stage) * Shape::stage;
      wait_for_phase(barriers.full[walker][stage], k / Shape::stages);
      TurnedSums<1> sum;
      begin_products();
      multiply_tile_columns<false>(sum, correlate, name_rows(at + kOutputs * kTurnedBytes));
      multiply_tile_columns<true>(sum, spread, name_rows(at + kAdjoints * kTurnedBytes));
      end_products();
      write();
      wait_for_products<0>();
      hold(sum);
      arrive(barriers.empty[walker][stage]);
      if (now == tiles - 1 && launch.tail_state != nullptr) {
        const float* const extra =
            launch.tail_input +
            (static_cast<long long>(s + walker) * call.shape.channels + channel) * kChunk +
            16 * warp + g;
#pragma unroll
        for (int c = 0; c < 8; ++c)
          if (8 * q + c == last_chunk)
            sum[c / 2][c % 2] += extra[0], sum[c / 2][2 + c % 2] += extra[8];
      }
      unsigned words[8];
      pack_columns(sum, words);
      turn ^= 1;
      store_columns(outs + turn * kTurnedBytes + place, words);
      left = now == tiles - 1 ? rest : kTurnedTile;
      written = dx;
      written.move(walker, 0);
    };
    // The next channel's powers are made eight tiles before the end, where the walkers cannot be
    // yet, and when this one's matrices are in no registers.
    const int turn_at = more ? max(0, count0 - 8) : count0;
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      const int begin = part == 0 ? 0 : turn_at, end = part == 0 ? turn_at : count0;
      if (begin == end) continue;
      if (part == 1) {
        if (job > 0) wait_for_phase(barriers.rows_empty[(job - 1) % 2], (job - 1) / 2);
        make_tables(job + 1, channel + 1);
      }
      make_turned(correlate, [&](int to, int from) { return tables.taps()[from - to]; });
      make_state_columns(spread, [&](int n, int position) { return tables.lift(n, position); });
#pragma unroll 1
      for (int i = begin; i < end; ++i) {  // the first walker has no fewer
        make_tile(0, base0 + i);
        if (i < count1) make_tile(1, base1 + i);
        const bool within = now > 0;
        dx.move(within ? 0 : 2, within ? -1 : tiles - 1);
        if (!within) s += 2;
        now += within ? -1 : tiles - 1;
      }
    }
    synchronize();  // the taps have been read
    base0 += count0, base1 += count1;
  }
  write();
  if constexpr (Engine) {
    if (leads) {
      finish_bulk_reads();
      finish_bulk_copies();
    }
  }
}

/// The sums over chunks of both walkers' tiles, then gradients of c, b̄, ā and skip of a channel's
/// part, while the walkers begin the next.
__device__ inline void sum_turned(const BackwardLaunch<BFloat16>& launch, unsigned char* shared,
                                  TurnedBarriers& barriers, TurnedShare share, int tiles,
                                  const TurnedPlan& plan) {
  using Shape = TurnedBackward;
  const int thread = threadIdx.x % kTurnedThreads, lane = thread % 32, warp = thread / 32,
            g = lane / 4, q = lane % 4;
  const auto synchronize = [] { meet(1, kTurnedThreads); };
  unsigned base0 = 0, base1 = 0;
#pragma unroll 1
  for (int job = 0; share.left > 0; ++job, share.advance()) {
    const int count0 = count_sequences(share, 0, launch.sequences) * tiles,
              count1 = count_sequences(share, 1, launch.sequences) * tiles;
    float lower[8][4] = {}, toeplitz[8][4] = {}, lift[8][4] = {};
    SharedBarrier* before = nullptr;
#pragma unroll 1
    for (int i = 0; i < 2 * count0; ++i) {  // the first walker has no fewer
      const int walker = i % 2;
      if (i / 2 >= (walker == 0 ? count0 : count1)) continue;
      const unsigned k = (walker == 0 ? base0 : base1) + i / 2;
      wait_for_phase(barriers.full[walker][k % Shape::stages], k / Shape::stages);
      const unsigned char* const stage =
          shared + (walker * Shape::stages + k % Shape::stages) * Shape::stage;
      const auto tile = [&](int which) {
        return describe_panels(stage + which * kTurnedBytes, 16);
      };
      hold(lower), hold(toeplitz), hold(lift);
      begin_products();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const unsigned long long at = j * (16 * 128 >> 4);
        multiply_both_transposed<BFloat16>(lower, tile(kOutputs) + at, tile(kStates) + at, true);
        multiply_both_transposed<BFloat16>(toeplitz, tile(kOutputs) + at, tile(kInputs) + at, true);
        multiply_both_transposed<BFloat16>(lift, tile(kAdjoints) + at, tile(kInputs) + at, true);
      }
      end_products();
      wait_for_products<1>();
      if (before != nullptr) arrive(*before);
      before = &barriers.empty[walker][k % Shape::stages];
    }
    wait_for_products<0>();
    hold(lower), hold(toeplitz), hold(lift);
    if (before != nullptr) arrive(*before);
    base0 += count0, base1 += count1;

    const StoredSums stored(reinterpret_cast<float*>(shared + Shape::sums_at));
    const auto natural = [](int row) { return 2 * turned_mode(row) + is_imaginary(row); };
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = 16 * warp + g + 8 * (i / 2), c = 8 * j + 2 * q + i % 2;
        stored.lower[r * kSumPitch + natural(c)] = lower[j][i];
        stored.toeplitz[r * kSumPitch + c] = toeplitz[j][i];
        stored.lift[natural(r) * kSumPitch + c] = lift[j][i];
      }
    wait_for_phase(barriers.rows_full, job);
    const float2* const rows = reinterpret_cast<const float2*>(shared + Shape::rows_at);
    const int part = plan.part(share.channel, blockIdx.x);
    const TurnedTables tables = Shape::tables(shared, job);
    contract_stored<BFloat16, kTurnedThreads / 32>(
        stored, thread, launch, share.channel, plan.parts, part, tables.power, TurnedTables::pitch,
        tables.power + TurnedTables::kIn * TurnedTables::pitch,
        tables.power + TurnedTables::kOut * TurnedTables::pitch,
        [&](int mode) {
          return float2{rows[mode].x + rows[kModes + mode].x, rows[mode].y + rows[kModes + mode].y};
        },
        synchronize);
    // Parts that the channel does not have, by the block that has its last.
    if (share.first + share.here == share.items)
      for (int other = part + 1; other < plan.parts; ++other) {
        const long long group = static_cast<long long>(share.channel) * plan.parts + other;
        if (thread < 3 * kModes) launch.partial[group * 3 * kModes + thread] = {0.f, 0.f};
        if (thread == 0) launch.partial_skip[group] = 0.f;
      }
    synchronize();
    arrive(barriers.rows_empty[job % 2]);
  }
}
#endif

/// The adjoint walks of the pairs of sequences that the plan gives to the block, by two warpgroups
/// that walk, a sequence of a pair each, one that adds the products over chunks, and one that makes
/// the input gradients. Engine: the copy engine moves tiles from and to memory.
template <bool Engine>
__global__ void __launch_bounds__(TurnedBackward::threads, 1)
    turned_backward(const __grid_constant__ BackwardLaunch<BFloat16> launch,
                    const __grid_constant__ TurnedPlan plan,
                    const __grid_constant__ TurnedBackwardMaps maps) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedBackward;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  unsigned char* const shared = turned_shared;
  __shared__ TurnedBarriers barriers;
  if (threadIdx.x == 0) {
    for (SharedBarrier& tables : barriers.tables_full) start(tables, kTurnedThreads);
    for (SharedBarrier& rows : barriers.rows_empty) start(rows, kTurnedThreads);
    start(barriers.rows_full, Shape::walkers);
    for (int w = 0; w < Shape::walkers; ++w)
      for (int i = 0; i < Shape::stages; ++i)
        start(barriers.loaded[w][i], 1), start(barriers.full[w][i], kTurnedThreads),
            start(barriers.empty[w][i], 2 * kTurnedThreads);
    show_barriers();
  }
  __syncthreads();
  const int tiles = (launch.call.shape.length + kTurnedTile - 1) / kTurnedTile;
  const TurnedShare share(plan.pairs, launch.call.shape.channels);
  wait_for_predecessors();
  let_successor_begin();
  const int group = __shfl_sync(~0u, threadIdx.x / kTurnedThreads, 0);
  if (group < Shape::walkers) {
    grow_registers<152>();
    walk_turned<Engine>(launch, maps, shared, barriers, group, share, tiles);
  } else if (group == Shape::walkers) {
    sum_turned(launch, shared, barriers, share, tiles, plan);
  } else {
    shrink_registers<80>();
    write_gradients<Engine>(launch, maps, shared, barriers, share, tiles);
  }
#endif
}

}  // namespace ssm::cuda::device
