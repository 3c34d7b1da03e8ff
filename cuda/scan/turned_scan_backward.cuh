// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/block_pipeline.cuh"
#include "scan/diagonal_scan_sums.cuh"
#include "scan/turned_scan.cuh"
#include "scan/turned_scan_plan.cuh"

namespace ssm::cuda::device {

/// Shared memory of a block: stages of two walkers with four tiles each, outputs on their way, the
/// Toeplitz matrix and that of the adjoint states' inputs, the tables, the sums of a channel.
struct TurnedBackward {
  static constexpr int walkers = 2, stages = 4;
  static constexpr int threads = (walkers + 1) * kTurnedThreads;
  static constexpr int stage = kStoredTiles * kTurnedBytes;
  static constexpr int outs_at = walkers * stages * stage;
  // While a channel's matrices are made, its powers lie where outputs will.
  static constexpr int toeplitz_at = outs_at + 18 * 1024;
  static constexpr int spread_at = toeplitz_at + kChunk * kChunk * 2;
  static constexpr int table_at = spread_at + kChunk * kChunk * 2;
  static constexpr int rows_at = table_at + kTableRows * kTablePitch * 8;  // [walkers, kModes]
  static constexpr int taps_at = rows_at + walkers * kModes * 8;
  static constexpr int sums_at = taps_at + TurnedTables::tap_bytes;
  static constexpr int bytes = sums_at + (3 * kChunk * kSumPitch + kChunk) * 4;
  static_assert(TurnedTables::power_bytes <= 18 * 1024 && bytes <= 227 * 1024);
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// How many of a share's pairs of sequences have one for a walker.
__device__ inline int count_sequences(const TurnedShare& share, int walker, int sequences) {
  return share.here - (walker == 1 && 2 * (share.first + share.here) > sequences ? 1 : 0);
}

struct TurnedBarriers {
  SharedBarrier rows_full, rows_empty;
  SharedBarrier full[TurnedBackward::walkers][TurnedBackward::stages];
  SharedBarrier empty[TurnedBackward::walkers][TurnedBackward::stages];
};

/// States, adjoint states and input gradients of a walker's tiles.
__device__ inline void walk_turned(const BackwardLaunch<BFloat16>& launch, unsigned char* shared,
                                   TurnedBarriers& barriers, int walker, TurnedShare share,
                                   int tiles) {
  using Shape = TurnedBackward;
  const DiagonalScanBackward<BFloat16>& call = launch.call;
  const int thread = threadIdx.x % kTurnedThreads, warp = thread / 32, lane = thread % 32,
            g = lane / 4, q = lane % 4, mode = 8 * warp + g;
  const unsigned memory = shared_address(shared),
                 stages = memory + walker * (Shape::stages * Shape::stage),
                 outs = memory + Shape::outs_at + walker * (2 * kTurnedBytes),
                 correlate = memory + Shape::toeplitz_at, spread = memory + Shape::spread_at;
  const TurnedTables tables{reinterpret_cast<float2*>(shared + Shape::outs_at),
                            reinterpret_cast<float2*>(shared + Shape::table_at),
                            reinterpret_cast<float*>(shared + Shape::taps_at)};
  const unsigned place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const auto tile_at = [&](int k, int which) {
    return stages + k % Shape::stages * Shape::stage + which * kTurnedBytes;
  };
  // The walk takes the last tile of a sequence first.
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile;
  const int last_chunk = (rest - 1) / kChunk;
  const auto left_of = [&](int tile) { return tile == tiles - 1 ? rest : kTurnedTile; };
  const auto before = [&](int tile) { return tile > 0 ? tile - 1 : tiles - 1; };
  const long long row_numbers = static_cast<long long>(call.shape.channels) * kModes;
  int base = 0;  // tiles before those of a channel
#pragma unroll 1
  for (int job = 0; share.left > 0; ++job, share.advance()) {
    const int channel = share.channel, first = 2 * share.first + walker,
              end = base + count_sequences(share, walker, launch.sequences) * tiles;
    const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
    const auto item_of = [&](int s) {
      return static_cast<long long>(s) * call.shape.channels + channel;
    };
    const auto begin = [&](const auto& tensor) {
      return tensor.data + first * tensor.batch_stride + channel * tensor.channel_stride +
             static_cast<long long>(tiles - 1) * kTurnedTile + 8 * thread;
    };
    const auto advance = [&](auto*& at, long long batch_stride, int tile) {
      at += tile > 0 ? -kTurnedTile
                     : 2 * batch_stride + static_cast<long long>(tiles - 1) * kTurnedTile;
    };
    const BFloat16 *x = begin(call.x), *dy = begin(call.dy);
    BFloat16* dx = begin(call.dx);
    int now = tiles - 1, ahead = now, s = first;
    const auto bring = [&](int k) {
      if (k < end) {
        if (k >= Shape::stages)
          wait_for_phase(barriers.empty[walker][k % Shape::stages], k / Shape::stages - 1);
        runs.copy(tile_at(k, kInputs), x, left_of(ahead));
        runs.copy(tile_at(k, kOutputs), dy, left_of(ahead));
        advance(x, call.x.batch_stride, ahead), advance(dy, call.dy.batch_stride, ahead);
        ahead = before(ahead);
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
    };
    const float2* checkpoint = reinterpret_cast<const float2*>(launch.checkpoints) +
                               (static_cast<long long>(first) * tiles + tiles - 1) * row_numbers +
                               channel * kModes + mode;
    float2 start{}, carry{}, row{};
    bring(base), bring(base + 1);
    if (base < end) start = *checkpoint;

    constexpr int both = Shape::walkers * kTurnedThreads;
    meet(4, both);  // the matrices before have been read
    tables.copy<both>(launch.workspace, channel, threadIdx.x);
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
    meet(4, both);
    tables.sum_taps<both>(threadIdx.x);
    TurnedMatrix lift[2], raise[2];
    make_state_rows(lift, [&](int position) { return tables.lift(mode, position); });
    make_state_rows(raise, [&](int position) { return tables.lower(mode, position); });
    if (walker == 0)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store_tiles<true>(spread + (16 * i + 8 * (lane / 16) + lane % 8) * 128 +
                              ((2 * warp + lane / 8 % 2) ^ lane % 8) * 16,
                          lift[0].step[i][0], lift[0].step[i][1], lift[0].step[i][2],
                          lift[0].step[i][3]);
    const TurnedPowers onward = turned_powers<false>(tables.table, mode, q),
                       back = turned_powers<true>(tables.table, mode, q);
    meet(4, both);  // the powers have been read; outputs may come
#pragma unroll
    for (int i = threadIdx.x; i < kChunk * kChunk / 8; i += both) {
      const int to = i / 8, piece = i % 8;
      const float* const tap = tables.taps() + 8 * piece - to;
      store_run(correlate + to * 128 + (piece ^ to % 8) * 16,
                {pack_bf16(tap[0], tap[1]), pack_bf16(tap[2], tap[3]), pack_bf16(tap[4], tap[5]),
                 pack_bf16(tap[6], tap[7])});
    }
    show_copies_to_products();
    meet(4, both);
    TurnedSums v, w, sum;
    const auto begin_states = [&](int k) {
      multiply_pair_of_tiles(v, lift, name_rows(tile_at(k, kInputs)), w, raise,
                             name_rows(tile_at(k, kOutputs)));
      end_products();
    };
    // Without tiles of whatever is there: a condition would make the compiler wait for products.
    begin_products();
    begin_states(base);
#pragma unroll 1
    for (int k = base; k < end; ++k) {
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
      multiply_tile_columns<false>(sum, name_rows(correlate), name_rows(tile_at(k, kOutputs)));
      multiply_tile_columns<true>(sum, name_rows(spread), name_rows(tile_at(k, kAdjoints)));
      end_products();
      begin_states(k + 1);
      if (k > base) {
        const int written = now == tiles - 1 ? 0 : now + 1;
        runs.write(dx, outs + (k - 1) % 2 * kTurnedBytes, left_of(written));
        advance(dx, call.dx.batch_stride, written);
      }
      load_columns(words, tile_at(k, kOutputs) + place);
      wait_for_products<1>();
      hold(sum);
      add_scaled_columns(sum, skip, words);
      if (now == tiles - 1 && launch.tail_state != nullptr) {
        const float* const extra = launch.tail_input + item_of(s) * kChunk + 16 * warp + g;
#pragma unroll
        for (int c = 0; c < 8; ++c)
          if (8 * q + c == last_chunk)
            sum[c / 2][c % 2] += extra[0], sum[c / 2][2 + c % 2] += extra[8];
      }
      if (now == 0) {
        if (call.dinitial_state != nullptr && q == 0 && mode < call.shape.modes)
          call.dinitial_state[item_of(s) * call.shape.modes + mode] = {carry.x, carry.y};
        s += 2;
      }
      pack_columns(sum, words);
      store_columns(outs + k % 2 * kTurnedBytes + place, words);
      now = before(now);
    }
    wait_for_products<0>();
    if (base < end) {
      meet(2 + walker, kTurnedThreads);
      runs.write(dx, outs + (end - 1) % 2 * kTurnedBytes, left_of(0));
    }
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      row.x += __shfl_xor_sync(~0u, row.x, lanes);
      row.y += __shfl_xor_sync(~0u, row.y, lanes);
    }
    if (job > 0) wait_for_phase(barriers.rows_empty, job - 1);
    if (q == 0) reinterpret_cast<float2*>(shared + Shape::rows_at)[walker * kModes + mode] = row;
    meet(2 + walker, kTurnedThreads);
    if (thread == 0) arrive(barriers.rows_full);
    base = end;
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
  int base0 = 0, base1 = 0;
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
      const int k = (walker == 0 ? base0 : base1) + i / 2;
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
      if (before != nullptr && lane == 0) arrive(*before);
      before = &barriers.empty[walker][k % Shape::stages];
    }
    wait_for_products<0>();
    hold(lower), hold(toeplitz), hold(lift);
    if (before != nullptr && lane == 0) arrive(*before);
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
    contract_stored<BFloat16, kTurnedThreads / 32>(
        stored, thread, launch, share.channel, plan.parts, part,
        channel_powers<BFloat16>(launch.workspace, share.channel),
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
    if (thread == 0) arrive(barriers.rows_empty);
  }
}
#endif

/// The adjoint walks of the pairs of sequences that the plan gives to the block, by two warpgroups
/// that walk, a sequence of a pair each, and one that adds the products over chunks.
__global__ void __launch_bounds__(TurnedBackward::threads, 1)
    turned_backward(const __grid_constant__ BackwardLaunch<BFloat16> launch,
                    const __grid_constant__ TurnedPlan plan) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedBackward;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  unsigned char* const shared = turned_shared;
  __shared__ TurnedBarriers barriers;
  if (threadIdx.x == 0) {
    start(barriers.rows_full, Shape::walkers), start(barriers.rows_empty, 1);
    for (int w = 0; w < Shape::walkers; ++w)
      for (int i = 0; i < Shape::stages; ++i)
        start(barriers.full[w][i], 1), start(barriers.empty[w][i], 4);
    show_barriers();
  }
  __syncthreads();
  const int tiles = (launch.call.shape.length + kTurnedTile - 1) / kTurnedTile;
  const TurnedShare share(plan.pairs, launch.call.shape.channels);
  const int group = __shfl_sync(~0u, threadIdx.x / kTurnedThreads, 0);
  if (group < Shape::walkers) {
    grow_registers<184>();
    walk_turned(launch, shared, barriers, group, share, tiles);
  } else {
    shrink_registers<136>();
    sum_turned(launch, shared, barriers, share, tiles, plan);
  }
#endif
}

}  // namespace ssm::cuda::device
