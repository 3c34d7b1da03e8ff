// SPDX-License-Identifier: Apache-2.0
#pragma once

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

struct TurnedBackwardMaps {
  TurnedMap x, dy, dx;
};

#ifdef SSM_HAS_WARPGROUP_PRODUCTS

/// How many of a share's pairs of sequences have one for a walker.
__device__ inline int count_sequences(const TurnedShare& share, int walker, int sequences) {
  return share.here - (walker == 1 && 2 * (share.first + share.here) > sequences ? 1 : 0);
}

struct TurnedBarriers {
  SharedBarrier tables_full[2], rows_empty[2];  // of even and odd jobs: some wait long after
  SharedBarrier rows_full;                      // a phase a job
  SharedBarrier loaded[TurnedBackward::walkers][TurnedBackward::stages];  // by the copy engine
  SharedBarrier full[TurnedBackward::walkers][TurnedBackward::stages];    // states too
  SharedBarrier empty[TurnedBackward::walkers][TurnedBackward::stages];
};

/// States and adjoint states of a walker's tiles.
template <bool Engine>
__device__ inline void walk_turned(const BackwardLaunch<BFloat16>& launch,
                                   const TurnedBackwardMaps& maps, unsigned char* shared,
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
  const bool leads = __shfl_sync(~0u, warp, 0) == 0;  // the warp that asks the copy engine
  TurnedTiles<Engine, const BFloat16> x(call.x, maps.x), dy(call.dy, maps.dy);
  TurnedShare coming = share;
  int ahead = tiles - 1, to_come = count_sequences(coming, walker, launch.sequences) * tiles;
  const auto begin = [&] {
    const int sequence = 2 * coming.first + walker;
    ahead = tiles - 1;
    x.enter(sequence, coming.channel, ahead), dy.enter(sequence, coming.channel, ahead);
  };
  begin();
  const auto enter_channel = [&] {
    while (to_come == 0 && coming.left > 0) {
      coming.advance();
      to_come = count_sequences(coming, walker, launch.sequences) * tiles;
    }
    begin();
  };
  const auto advance = [&] {
    if (--to_come == 0) return enter_channel();
    const bool within = ahead > 0;
    const int sequences = within ? 0 : 2, by = within ? -1 : tiles - 1;
    x.move(sequences, by), dy.move(sequences, by);
    ahead += by;
  };
  const auto bring = [&](unsigned k) {
    const unsigned stage = k % Shape::stages;
    const auto wait_for_stage = [&] {
      if (k >= Shape::stages) wait_for_phase(barriers.empty[walker][stage], k / Shape::stages - 1);
    };
    if constexpr (Engine) {
      if (!leads || coming.left == 0) return;
      if (is_elected()) {
        wait_for_stage();
        SharedBarrier& loaded = barriers.loaded[walker][stage];
        expect(loaded, 2 * kTurnedBytes);
        x.template copy<1>(tile_at(k, kInputs), false, loaded);
        dy.template copy<1>(tile_at(k, kOutputs), false, loaded);
      }
      advance();
    } else {
      if (coming.left > 0) {
        wait_for_stage();
        const int left = ahead == tiles - 1 ? rest : kTurnedTile;
        x.template copy<1>(tile_at(k, kInputs), runs, left, false);
        dy.template copy<1>(tile_at(k, kOutputs), runs, left, false);
        advance();
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
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
    float2 start[1]{}, carry[1]{}, row{};
    if (base < end) start[0] = *checkpoint;
    wait_for_phase(barriers.tables_full[job % 2], job / 2);
    TurnedMatrix lift[2], raise[2];
    make_state_rows(lift, [&](int position) { return tables.lift(mode, position); });
    make_state_rows(raise, [&](int position) { return tables.lower(mode, position); });
    const TurnedPowers onward = turned_powers<false>(tables, mode, q),
                       back = turned_powers<true>(tables, mode, q);
    TurnedSums<1> v, w;
    const auto begin_states = [&](TurnedSums<1>& to, const TurnedMatrix(&a)[2], unsigned tile) {
      begin_products();
      multiply_tile_columns<false>(to, a[0], name_rows(tile));
      multiply_tile_columns<true>(to, a[1], name_rows(tile));
      end_products();
    };
    // The walker's tile k, which bring(k + 1) came behind, can be seen by products.
    const auto await = [&](unsigned k) {
      if constexpr (Engine) {
        if (k < end) wait_for_phase(barriers.loaded[walker][k % Shape::stages], k / Shape::stages);
      } else {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        show_copies_to_products();
        meet(2 + walker, kTurnedThreads);
      }
    };
    // Products of one direction run while the other's states are scanned. They end without tiles
    // of whatever is there: a condition would make the compiler wait for products.
    await(base);
    begin_states(v, lift, tile_at(base, kInputs));
#pragma unroll 1
    for (unsigned k = base; k < end; ++k) {
      bring(k + 2);
      unsigned forward[8], words[8];
      wait_for_products<0>();
      hold(v);
      begin_states(w, raise, tile_at(k, kOutputs));
      scan_columns<false>(v, onward, start);
      pack_columns(v, forward);
      store_columns(tile_at(k, kStates) + place, forward);
      if (k + 1 < end) {
        checkpoint += now > 0 ? -row_numbers : (2 * tiles + tiles - 1) * row_numbers;
        start[0] = *checkpoint;
      }
      await(k + 1);
      begin_states(v, lift, tile_at(k + 1, kInputs));
      wait_for_products<1>();
      hold(w);
      if (now == tiles - 1) {
        carry[0] = {0.f, 0.f};
        if (launch.tail_state != nullptr) {
          const float2 extra = launch.tail_state[item_of(s) * kModes + mode];
#pragma unroll
          for (int c = 0; c < 8; ++c)
            if (8 * q + c == last_chunk) w[c / 2][c % 2] += extra.x, w[c / 2][2 + c % 2] += extra.y;
        }
      }
      scan_columns<true>(w, back, carry);
      pack_columns(w, words);
      store_columns(tile_at(k, kAdjoints) + place, words);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned real = forward[2 * j], imaginary = forward[2 * j + 1];
        row = multiply_add(float2{w[j][0], w[j][2]}, float2{low_of(real), -low_of(imaginary)}, row);
        row =
            multiply_add(float2{w[j][1], w[j][3]}, float2{high_of(real), -high_of(imaginary)}, row);
      }
      show_copies_to_products();
      arrive(barriers.full[walker][k % Shape::stages]);
      if (now == 0) {
        if (call.dinitial_state != nullptr && q == 0 && mode < call.shape.modes)
          call.dinitial_state[item_of(s) * call.shape.modes + mode] = {carry[0].x, carry[0].y};
        s += 2;
      }
      now = now > 0 ? now - 1 : tiles - 1;
    }
    wait_for_products<0>();
#pragma unroll
    for (int other = 1; other < 4; other *= 2) {
      row.x += __shfl_xor_sync(~0u, row.x, other);
      row.y += __shfl_xor_sync(~0u, row.y, other);
    }
    if (job > 0) wait_for_phase(barriers.rows_empty[(job - 1) % 2], (job - 1) / 2);
    if (q == 0) reinterpret_cast<float2*>(shared + Shape::rows_at)[walker * kModes + mode] = row;
    meet(2 + walker, kTurnedThreads);
    if (thread == 0) arrive(barriers.rows_full);
    base = end;
  }
}
#endif

}  // namespace ssm::cuda::device
