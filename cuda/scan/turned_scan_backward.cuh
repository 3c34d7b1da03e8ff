// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/block_pipeline.cuh"
#include "scan/diagonal_scan_sums.cuh"
#include "scan/turned_scan.cuh"
#include "scan/turned_scan_plan.cuh"

namespace ssm::cuda::device {

/// Shared memory of a block: stages of two walkers with four tiles each, input gradients on their
/// way, the powers of two channels, sums of one.
struct TurnedBackward {
  static constexpr int walkers = 2, stages = 4;
  static constexpr int threads = (walkers + 2) * kTurnedThreads;
  static constexpr int stage = kStoredTiles * kTurnedBytes;
  static constexpr int outs_at = walkers * stages * stage;
  static constexpr int powers_at = outs_at + 2 * kTurnedBytes;
  static constexpr int taps_at = powers_at + 2 * TurnedTables::power_bytes;
  static constexpr int rows_at = taps_at + TurnedTables::tap_bytes;  // [walkers, kModes]
  static constexpr int sums_at = rows_at + walkers * kModes * 8;
  static constexpr int bytes = sums_at + (3 * kChunk * kSumPitch + kChunk) * 4;
  static_assert(bytes <= 227 * 1024);

  /// The powers of neighboring jobs, a channel each, lie apart: one's are read to its end.
  __device__ static TurnedTables tables(unsigned char* shared, int job) {
    return {reinterpret_cast<float2*>(shared + powers_at + job % 2 * TurnedTables::power_bytes),
            reinterpret_cast<float*>(shared + taps_at)};
  }
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// How many of a share's pairs of sequences have one for a walker.
__device__ inline int count_sequences(const TurnedShare& share, int walker, int sequences) {
  return share.here - (walker == 1 && 2 * (share.first + share.here) > sequences ? 1 : 0);
}

struct TurnedBarriers {
  SharedBarrier tables_full[2], rows_empty[2];  // of even and odd jobs: some wait long after
  SharedBarrier rows_full;                      // a phase a job
  SharedBarrier full[TurnedBackward::walkers][TurnedBackward::stages];
  SharedBarrier empty[TurnedBackward::walkers][TurnedBackward::stages];
};

/// States and adjoint states of a walker's tiles.
__device__ inline void walk_turned(const BackwardLaunch<BFloat16>& launch, unsigned char* shared,
                                   TurnedBarriers& barriers, int walker, TurnedShare share,
                                   int tiles) {
  using Shape = TurnedBackward;
  const DiagonalScanBackward<BFloat16>& call = launch.call;
  const int thread = threadIdx.x % kTurnedThreads, warp = thread / 32, lane = thread % 32,
            g = lane / 4, q = lane % 4, mode = 8 * warp + g;
  const unsigned stages = shared_address(shared) + walker * (Shape::stages * Shape::stage);
  const unsigned place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const auto tile_at = [&](unsigned k, int which) {
    return stages + k % Shape::stages * Shape::stage + which * kTurnedBytes;
  };
  // The walk takes the last tile of a sequence first.
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile;
  const int last_chunk = (rest - 1) / kChunk;
  const long long row_numbers = static_cast<long long>(call.shape.channels) * kModes;
  // Tiles come ahead of the walk, those of the next channel too.
  TurnedShare coming = share;
  int ahead = tiles - 1, to_come = count_sequences(coming, walker, launch.sequences) * tiles;
  const auto begin = [&](const auto& tensor) {
    return tensor.data + (2 * coming.first + walker) * tensor.batch_stride +
           coming.channel * tensor.channel_stride +
           static_cast<long long>(tiles - 1) * kTurnedTile + 8 * thread;
  };
  const auto advance = [&](auto*& at, long long batch_stride) {
    at += ahead > 0 ? -kTurnedTile
                    : 2 * batch_stride + static_cast<long long>(tiles - 1) * kTurnedTile;
  };
  const BFloat16 *x = begin(call.x), *dy = begin(call.dy);
  const auto enter_channel = [&] {
    while (to_come == 0 && coming.left > 0) {
      coming.advance();
      to_come = count_sequences(coming, walker, launch.sequences) * tiles;
    }
    ahead = tiles - 1, x = begin(call.x), dy = begin(call.dy);
  };
  const auto bring = [&](unsigned k) {
    if (coming.left > 0) {
      if (k >= Shape::stages)
        wait_for_phase(barriers.empty[walker][k % Shape::stages], k / Shape::stages - 1);
      const int left = ahead == tiles - 1 ? rest : kTurnedTile;
      runs.copy(tile_at(k, kInputs), x, left);
      runs.copy(tile_at(k, kOutputs), dy, left);
      if (--to_come > 0) {
        advance(x, call.x.batch_stride), advance(dy, call.dy.batch_stride);
        ahead = ahead > 0 ? ahead - 1 : tiles - 1;
      } else {
        enter_channel();
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  if (to_come == 0) enter_channel();
  bring(0), bring(1);
  unsigned base = 0;  // tiles before those of a channel
#pragma unroll 1
  for (int job = 0; share.left > 0; ++job, share.advance()) {
    const TurnedTables tables = Shape::tables(shared, job);
    const int channel = share.channel, first = 2 * share.first + walker;
    const unsigned end = base + count_sequences(share, walker, launch.sequences) * tiles;
    const auto item_of = [&](int s) {
      return static_cast<long long>(s) * call.shape.channels + channel;
    };
    int now = tiles - 1, s = first;
    const float2* checkpoint = reinterpret_cast<const float2*>(launch.checkpoints) +
                               (static_cast<long long>(first) * tiles + tiles - 1) * row_numbers +
                               channel * kModes + mode;
    float2 start{}, carry{}, row{};
    if (base < end) start = *checkpoint;
    wait_for_phase(barriers.tables_full[job % 2], job / 2);
    TurnedMatrix lift[2], raise[2];
    make_state_rows(lift, [&](int position) { return tables.lift(mode, position); });
    make_state_rows(raise, [&](int position) { return tables.lower(mode, position); });
    const TurnedPowers onward = turned_powers<false>(tables, mode, q),
                       back = turned_powers<true>(tables, mode, q);
    TurnedSums v, w;
    const auto begin_states = [&](unsigned k) {
      multiply_pair_of_tiles(v, lift, name_rows(tile_at(k, kInputs)), w, raise,
                             name_rows(tile_at(k, kOutputs)));
      end_products();
    };
    // Without tiles of whatever is there: a condition would make the compiler wait for products.
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    show_copies_to_products();
    meet(2 + walker, kTurnedThreads);
    begin_products();
    begin_states(base);
#pragma unroll 1
    for (unsigned k = base; k < end; ++k) {
      bring(k + 2);
      unsigned words[8];
      wait_for_products<0>();
      hold(v), hold(w);
      if (now == tiles - 1) {
        carry = {0.f, 0.f};
        if (launch.tail_state != nullptr) {
          const float2 extra = launch.tail_state[item_of(s) * kModes + mode];
#pragma unroll
          for (int c = 0; c < 8; ++c)
            if (8 * q + c == last_chunk) w[c / 2][c % 2] += extra.x, w[c / 2][2 + c % 2] += extra.y;
        }
      }
      // Both scans at once: either is a chain of dependent operations.
      scan_columns<false>(v, onward, start);
      scan_columns<true>(w, back, carry);
      pack_columns(v, words);
      store_columns(tile_at(k, kStates) + place, words);
      if (k + 1 < end) {
        checkpoint += now > 0 ? -row_numbers : (2 * tiles + tiles - 1) * row_numbers;
        start = *checkpoint;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          row = multiply_add(float2{w[j][i], w[j][2 + i]}, conjugate(float2{v[j][i], v[j][2 + i]}),
                             row);
      pack_columns(w, words);
      store_columns(tile_at(k, kAdjoints) + place, words);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      show_copies_to_products();
      meet(2 + walker, kTurnedThreads);
      if (thread == 0) arrive(barriers.full[walker][k % Shape::stages]);
      begin_products();
      begin_states(k + 1);
      if (now == 0) {
        if (call.dinitial_state != nullptr && q == 0 && mode < call.shape.modes)
          call.dinitial_state[item_of(s) * call.shape.modes + mode] = {carry.x, carry.y};
        s += 2;
      }
      now = now > 0 ? now - 1 : tiles - 1;
    }
    wait_for_products<0>();
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      row.x += __shfl_xor_sync(~0u, row.x, lanes);
      row.y += __shfl_xor_sync(~0u, row.y, lanes);
    }
    if (job > 0) wait_for_phase(barriers.rows_empty[(job - 1) % 2], (job - 1) / 2);
    if (q == 0) reinterpret_cast<float2*>(shared + Shape::rows_at)[walker * kModes + mode] = row;
    meet(2 + walker, kTurnedThreads);
    if (thread == 0) arrive(barriers.rows_full);
    base = end;
  }
}

/// Powers of each channel before the walkers want them, and input gradients of their tiles.
__device__ inline void write_gradients(const BackwardLaunch<BFloat16>& launch,
                                       unsigned char* shared, TurnedBarriers& barriers,
                                       TurnedShare share, int tiles, int lanes) {
  using Shape = TurnedBackward;
  const DiagonalScanBackward<BFloat16>& call = launch.call;
  const int thread = threadIdx.x % kTurnedThreads, lane = thread % 32, warp = thread / 32,
            g = lane / 4, q = lane % 4;
  const auto synchronize = [] { meet(5, kTurnedThreads); };
  const unsigned memory = shared_address(shared), outs = memory + Shape::outs_at,
                 place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile, last_chunk = (rest - 1) / kChunk;
  const long long stride = call.dx.batch_stride,
                  hop = 2 * stride + static_cast<long long>(tiles - 1) * kTurnedTile;
  const auto make_tables = [&](int job, int channel) {
    Shape::tables(shared, job)
        .make<kTurnedThreads / 32>(call.parameters, call.shape.modes, channel, thread);
    arrive(barriers.tables_full[job % 2]);
  };
  make_tables(0, share.channel);
  unsigned base0 = 0, base1 = 0, turn = 0;
  int left = 0;
  BFloat16* written = nullptr;  // where the tile before goes
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
    tables.sum_taps<kTurnedThreads>(thread);
    synchronize();
    TurnedMatrix correlate, spread;
    int now = tiles - 1, s = 2 * share.first;
    BFloat16* dx = call.dx.data + s * stride + channel * call.dx.channel_stride +
                   static_cast<long long>(now) * kTurnedTile + 8 * thread;
    // The walker's tile k: input gradients to shared memory, those of the tile before to memory.
    const auto make_tile = [&](int walker, unsigned k) {
      const unsigned stage = k % Shape::stages,
                     at = memory + (walker * Shape::stages + stage) * Shape::stage;
      wait_for_phase(barriers.full[walker][stage], k / Shape::stages);
      TurnedSums sum;
      begin_products();
      multiply_tile_columns<false>(sum, correlate, name_rows(at + kOutputs * kTurnedBytes));
      multiply_tile_columns<true>(sum, spread, name_rows(at + kAdjoints * kTurnedBytes));
      end_products();
      unsigned words[8];
      load_columns(words, at + kOutputs * kTurnedBytes + place);
      synchronize();
      if (written != nullptr) runs.write(written, outs + turn * kTurnedBytes, left);
      wait_for_products<0>();
      hold(sum);
      add_scaled_columns(sum, skip, words);
      if (lane < lanes) arrive(barriers.empty[walker][stage]);
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
      pack_columns(sum, words);
      turn ^= 1;
      store_columns(outs + turn * kTurnedBytes + place, words);
      written = dx + walker * stride, left = now == tiles - 1 ? rest : kTurnedTile;
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
        dx += now > 0 ? -kTurnedTile : hop;
        if (now == 0) s += 2;
        now = now > 0 ? now - 1 : tiles - 1;
      }
    }
    synchronize();  // the taps have been read
    base0 += count0, base1 += count1;
  }
  synchronize();
  if (written != nullptr) runs.write(written, outs + turn * kTurnedBytes, left);
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
      if (before != nullptr && lane < plan.lanes) arrive(*before);
      before = &barriers.empty[walker][k % Shape::stages];
    }
    wait_for_products<0>();
    hold(lower), hold(toeplitz), hold(lift);
    if (before != nullptr && lane < plan.lanes) arrive(*before);
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
    if (lane < plan.lanes) arrive(barriers.rows_empty[job % 2]);
  }
}
#endif

/// The adjoint walks of the pairs of sequences that the plan gives to the block, by two warpgroups
/// that walk, a sequence of a pair each, one that adds the products over chunks, and one that makes
/// the input gradients.
__global__ void __launch_bounds__(TurnedBackward::threads, 1)
    turned_backward(const __grid_constant__ BackwardLaunch<BFloat16> launch,
                    const __grid_constant__ TurnedPlan plan) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedBackward;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  unsigned char* const shared = turned_shared;
  __shared__ TurnedBarriers barriers;
  if (threadIdx.x == 0) {
    for (SharedBarrier& tables : barriers.tables_full) start(tables, kTurnedThreads);
    for (SharedBarrier& rows : barriers.rows_empty) start(rows, 4 * plan.lanes);
    start(barriers.rows_full, Shape::walkers);
    for (int w = 0; w < Shape::walkers; ++w)
      for (int i = 0; i < Shape::stages; ++i)
        start(barriers.full[w][i], 1), start(barriers.empty[w][i], 8 * plan.lanes);
    show_barriers();
  }
  __syncthreads();
  const int tiles = (launch.call.shape.length + kTurnedTile - 1) / kTurnedTile;
  const TurnedShare share(plan.pairs, launch.call.shape.channels);
  wait_for_predecessors();
  let_successor_begin();
  const int group = __shfl_sync(~0u, threadIdx.x / kTurnedThreads, 0);
  if (group < Shape::walkers) {
    grow_registers<144>();
    walk_turned(launch, shared, barriers, group, share, tiles);
  } else if (group == Shape::walkers) {
    sum_turned(launch, shared, barriers, share, tiles, plan);
  } else {
    shrink_registers<96>();
    write_gradients(launch, shared, barriers, share, tiles, plan.lanes);
  }
#endif
}

}  // namespace ssm::cuda::device
