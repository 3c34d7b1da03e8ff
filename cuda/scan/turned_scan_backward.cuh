// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/block_pipeline.cuh"
#include "scan/diagonal_scan_sums.cuh"
#include "scan/turned_scan.cuh"

namespace ssm::cuda::device {

/// Shared memory of a block: stages of two walkers with four tiles each, outputs on their way, the
/// Toeplitz matrix, the table of powers.
struct TurnedBackward {
  static constexpr int walkers = 2, stages = 4;
  static constexpr int threads = (walkers + 1) * kTurnedThreads;
  static constexpr int stage = kStoredTiles * kTurnedBytes;
  static constexpr int outs_at = walkers * stages * stage;
  static constexpr int toeplitz_at = outs_at + walkers * 2 * kTurnedBytes;
  static constexpr int spread_at = toeplitz_at + kChunk * kChunk * 2;
  static constexpr int table_at = spread_at + kChunk * kChunk * 2;
  static constexpr int rows_at = table_at + kTableRows * kTablePitch * 8;  // [walkers, kModes]
  static constexpr int taps_at = rows_at + walkers * kModes * 8;
  static constexpr int bytes = taps_at + kChunk * 4;
  static constexpr int powers_at = 64 * 1024;  // at the end, beyond the sums
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// How many tiles a walker has that takes sequences first, first + step, ….
__device__ inline int turned_count(int first, int step, int sequences, int tiles) {
  return first < sequences ? (sequences - first + step - 1) / step * tiles : 0;
}

struct TurnedBarriers {
  SharedBarrier full[TurnedBackward::walkers][TurnedBackward::stages];
  SharedBarrier empty[TurnedBackward::walkers][TurnedBackward::stages];
};

/// States, adjoint states and input gradients of a walker's tiles.
__device__ inline void walk_turned(const BackwardLaunch<BFloat16>& launch, unsigned char* shared,
                                   TurnedBarriers& barriers, int walker, const float2* power,
                                   int tiles) {
  using Shape = TurnedBackward;
  const DiagonalScanBackward<BFloat16>& call = launch.call;
  const int thread = threadIdx.x % kTurnedThreads, warp = thread / 32, lane = thread % 32,
            g = lane / 4, q = lane % 4, mode = 8 * warp + g, channel = blockIdx.x;
  const float2* const table = reinterpret_cast<const float2*>(shared + Shape::table_at);
  TurnedMatrix lift[2], raise[2];
  make_turned(lift, TurnedLift{power, table});
  make_turned(raise, TurnedLower{power, table});
  const TurnedPowers onward = turned_powers<false>(table, mode, q),
                     back = turned_powers<true>(table, mode, q);
  __syncthreads();  // the powers have been read; tiles may come

  const int step = 2 * gridDim.y, first = 2 * blockIdx.y + walker;
  const int count = turned_count(first, step, launch.sequences, tiles);
  const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
  const unsigned memory = shared_address(shared),
                 stages = memory + walker * (Shape::stages * Shape::stage),
                 outs = memory + Shape::outs_at + walker * (2 * kTurnedBytes);
  const unsigned place = turned_lane_place(warp, lane);
  const TurnedRuns runs(thread);
  const auto tile_at = [&](int k, int which) {
    return stages + k % Shape::stages * Shape::stage + which * kTurnedBytes;
  };
  // The walk takes the last tile of a sequence first.
  const int rest = call.shape.length - (tiles - 1) * kTurnedTile;
  const int last_chunk = (rest - 1) / kChunk;
  const auto left_of = [&](int tile) { return tile == tiles - 1 ? rest : kTurnedTile; };
  const auto item_of = [&](int s) {
    return static_cast<long long>(s) * call.shape.channels + channel;
  };
  const auto begin = [&](const auto& tensor) {
    return tensor.data + first * tensor.batch_stride + channel * tensor.channel_stride +
           static_cast<long long>(tiles - 1) * kTurnedTile + 8 * thread;
  };
  const auto advance = [&](auto*& at, long long batch_stride, int tile) {
    at += tile > 0 ? -kTurnedTile
                   : step * batch_stride + static_cast<long long>(tiles - 1) * kTurnedTile;
  };
  const auto before = [&](int tile) { return tile > 0 ? tile - 1 : tiles - 1; };
  const BFloat16 *x = begin(call.x), *dy = begin(call.dy);
  BFloat16* dx = begin(call.dx);
  int now = tiles - 1, ahead = now, s = first;
  const auto bring = [&](int k) {
    if (k < count) {
      if (k >= Shape::stages)
        wait_for_phase(barriers.empty[walker][k % Shape::stages], k / Shape::stages - 1);
      runs.copy(tile_at(k, kInputs), x, left_of(ahead));
      runs.copy(tile_at(k, kOutputs), dy, left_of(ahead));
      advance(x, call.x.batch_stride, ahead), advance(dy, call.dy.batch_stride, ahead);
      ahead = before(ahead);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  const long long row_numbers = static_cast<long long>(call.shape.channels) * kModes;
  const float2* checkpoint = reinterpret_cast<const float2*>(launch.checkpoints) +
                             (static_cast<long long>(first) * tiles + tiles - 1) * row_numbers +
                             channel * kModes + mode;
  TurnedSums v, w, sum;
  const auto begin_states = [&](int k) {
    const unsigned u = name_rows(tile_at(k, kInputs)), d = name_rows(tile_at(k, kOutputs));
    multiply_tile_columns<false>(v, lift[0], u);
    multiply_tile_columns<true>(v, lift[1], u);
    multiply_tile_columns<false>(w, raise[0], d);
    multiply_tile_columns<true>(w, raise[1], d);
    end_products();
  };
  float2 start{}, carry{}, row{};
  if (count > 0) {
    bring(0), bring(1);
    start = *checkpoint;
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    show_copies_to_products();
    meet(2 + walker, kTurnedThreads);
    begin_products();
    begin_states(0);
  }
  const unsigned correlate = name_rows(memory + Shape::toeplitz_at),
                 spread = name_rows(memory + Shape::spread_at);
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    bring(k + 2);
    unsigned states[8], words[8];
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
    pack_columns(v, states);
    store_columns(tile_at(k, kStates) + place, states);
    if (k + 1 < count) {
      checkpoint += now > 0 ? -row_numbers : (step * tiles + tiles - 1) * row_numbers;
      start = *checkpoint;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 before = i == 0 ? float2{low_of(states[2 * j]), low_of(states[2 * j + 1])}
                                     : float2{high_of(states[2 * j]), high_of(states[2 * j + 1])};
        row = multiply_add(float2{w[j][i], w[j][2 + i]}, conjugate(before), row);
      }
    pack_columns(w, words);
    store_columns(tile_at(k, kAdjoints) + place, words);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    show_copies_to_products();
    meet(2 + walker, kTurnedThreads);
    if (thread == 0) arrive(barriers.full[walker][k % Shape::stages]);
    begin_products();
    multiply_tile_columns<false>(sum, correlate, name_rows(tile_at(k, kOutputs)));
    multiply_tile_columns<true>(sum, spread, name_rows(tile_at(k, kAdjoints)));
    end_products();
    begin_states(k + 1);
    if (k > 0) {
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
      s += step;
    }
    pack_columns(sum, words);
    store_columns(outs + k % 2 * kTurnedBytes + place, words);
    now = before(now);
  }
  wait_for_products<0>();
  if (count > 0) {
    meet(2 + walker, kTurnedThreads);
    runs.write(dx, outs + (count - 1) % 2 * kTurnedBytes, left_of(0));
  }
#pragma unroll
  for (int lanes = 1; lanes < 4; lanes *= 2) {
    row.x += __shfl_xor_sync(~0u, row.x, lanes);
    row.y += __shfl_xor_sync(~0u, row.y, lanes);
  }
  if (q == 0) reinterpret_cast<float2*>(shared + Shape::rows_at)[walker * kModes + mode] = row;
}

/// The sums over chunks of both walkers' tiles, then gradients of c, b̄, ā and skip.
__device__ inline void sum_turned(const BackwardLaunch<BFloat16>& launch, unsigned char* shared,
                                  TurnedBarriers& barriers, int tiles) {
  using Shape = TurnedBackward;
  __syncthreads();
  const int step = 2 * gridDim.y, thread = threadIdx.x % kTurnedThreads, lane = thread % 32;
  int counts[2];
  for (int i = 0; i < 2; ++i)
    counts[i] = turned_count(2 * blockIdx.y + i, step, launch.sequences, tiles);
  float lower[8][4] = {}, toeplitz[8][4] = {}, lift[8][4] = {};
  SharedBarrier* before = nullptr;
#pragma unroll 1
  for (int i = 0; i < 2 * counts[0]; ++i) {  // the first walker has no fewer
    const int walker = i % 2, k = i / 2;
    if (k >= counts[walker]) continue;
    wait_for_phase(barriers.full[walker][k % Shape::stages], k / Shape::stages);
    const unsigned char* const stage =
        shared + (walker * Shape::stages + k % Shape::stages) * Shape::stage;
    const auto tile = [&](int which) { return describe_panels(stage + which * kTurnedBytes, 16); };
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
  meet(1, Shape::threads);

  const StoredSums stored(reinterpret_cast<float*>(shared));
  const int warp = thread / 32, g = lane / 4, q = lane % 4;
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
  float2* const power = reinterpret_cast<float2*>(shared + Shape::powers_at);
  const float2* const powers = channel_powers<BFloat16>(launch.workspace, blockIdx.x);
  for (int i = thread; i < kPowers * kModes; i += kTurnedThreads) power[i] = powers[i];
  const float2* const rows = reinterpret_cast<const float2*>(shared + Shape::rows_at);
  contract_stored<BFloat16, kTurnedThreads / 32>(
      stored, thread, launch, power,
      [&](int mode) {
        return float2{rows[mode].x + rows[kModes + mode].x, rows[mode].y + rows[kModes + mode].y};
      },
      [] { meet(2, kTurnedThreads); });
}
#endif

/// The adjoint walk of channel blockIdx.x over sequences 2·blockIdx.y, …, by two warpgroups that
/// walk and one that adds the products over chunks.
__global__ void __launch_bounds__(TurnedBackward::threads, 1)
    turned_backward(const __grid_constant__ BackwardLaunch<BFloat16> launch) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedBackward;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  unsigned char* const shared = turned_shared;
  __shared__ TurnedBarriers barriers;
  if (threadIdx.x == 0) {
    for (int w = 0; w < Shape::walkers; ++w)
      for (int i = 0; i < Shape::stages; ++i)
        start(barriers.full[w][i], 1), start(barriers.empty[w][i], 4);
    show_barriers();
  }
  float2* const power = reinterpret_cast<float2*>(shared);
  float2* const table = reinterpret_cast<float2*>(shared + Shape::table_at);
  float* const tap = reinterpret_cast<float*>(shared + Shape::taps_at);
  load_turned_tables(launch.workspace, power, table, tap);
  BFloat16* const toeplitz = reinterpret_cast<BFloat16*>(shared + Shape::toeplitz_at);
  BFloat16* const spread = reinterpret_cast<BFloat16*>(shared + Shape::spread_at);
  for (int i = threadIdx.x; i < kChunk * kChunk; i += Shape::threads) {
    const int to = i / kChunk, from = i % kChunk;
    from_float(from >= to ? tap[from - to] : 0.f, toeplitz[place_in_panels<kChunk>(to, from)]);
    from_float(TurnedLift{power, table}(from, to), spread[place_in_panels<kChunk>(to, from)]);
  }
  show_copies_to_products();
  __syncthreads();
  const int tiles = (launch.call.shape.length + kTurnedTile - 1) / kTurnedTile;
  const int group = __shfl_sync(~0u, threadIdx.x / kTurnedThreads, 0);
  if (group < Shape::walkers) {
    grow_registers<184>();
    walk_turned(launch, shared, barriers, group, power, tiles);
    announce(1, Shape::threads);
  } else {
    shrink_registers<136>();
    sum_turned(launch, shared, barriers, tiles);
  }
#endif
}

}  // namespace ssm::cuda::device
