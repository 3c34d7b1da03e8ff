// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/diagonal_scan_forward.cuh"
#include "scan/turned_scan.cuh"

namespace ssm::cuda::device {

/// Shared memory of a block: tiles of inputs, of states and of outputs, the Toeplitz matrix, taps.
/// While a channel's matrices are made, its powers lie where states and outputs will.
struct TurnedForward {
  static constexpr int stages = 4;
  static constexpr int resident = 4;  // blocks of a multiprocessor
  static constexpr int states_at = stages * kTurnedBytes;
  static constexpr int outs_at = states_at + 2 * kTurnedBytes;
  static constexpr int toeplitz_at = states_at + 20 * 1024;
  static constexpr int taps_at = toeplitz_at + kChunk * kChunk * 2;
  static constexpr int bytes = taps_at + TurnedTables::tap_bytes;
  static_assert(TurnedTables::power_bytes <= 20 * 1024);
};

/// One warpgroup walks over the sequences that are the block's part of all.
__global__ void __launch_bounds__(kTurnedThreads, TurnedForward::resident)
    turned_forward(const __grid_constant__ ForwardLaunch<BFloat16> launch) {
#ifdef SSM_HAS_WARPGROUP_PRODUCTS
  using Shape = TurnedForward;
  extern __shared__ __align__(1024) unsigned char turned_shared[];
  unsigned char* const shared = turned_shared;
  const DiagonalScan<BFloat16>& call = launch.call;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane / 4,
            q = lane % 4, mode = 8 * warp + g;
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
  const auto after = [&](int tile) { return tile < tiles - 1 ? tile + 1 : 0; };
  const auto tile_at = [&](unsigned k) { return inputs + k % Shape::stages * kTurnedBytes; };
  const long long row_numbers = static_cast<long long>(call.shape.channels) * kModes;
  wait_for_predecessors();
  let_successor_begin();
#pragma unroll 1
  for (TurnedShare share(launch.sequences, call.shape.channels); share.left > 0; share.advance()) {
    const int channel = share.channel, first = share.first;
    const unsigned count = share.here * tiles;
    const float skip = call.parameters.skip != nullptr ? call.parameters.skip[channel] : 0.f;
    const auto begin = [&](const auto& tensor) {
      return tensor.data + first * tensor.batch_stride + channel * tensor.channel_stride +
             8 * thread;
    };
    const auto advance = [&](auto*& at, long long batch_stride, int tile) {
      at += tile < tiles - 1 ? kTurnedTile
                             : batch_stride - static_cast<long long>(tiles - 1) * kTurnedTile;
    };
    const BFloat16* x = begin(call.x);
    BFloat16* y = begin(call.y);
    int now = 0, ahead = 0, s = first;
    const auto bring = [&](unsigned k) {
      if (k < count) {
        runs.copy(tile_at(k), x, left_of(ahead));
        advance(x, call.x.batch_stride, ahead);
        ahead = after(ahead);
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float2* checkpoint = reinterpret_cast<float2*>(call.checkpoints);
    if (checkpoint != nullptr)
      checkpoint += static_cast<long long>(first) * tiles * row_numbers + channel * kModes + mode;
    TurnedMatrix lift[2], lower;
    TurnedSums v, sum;
    const auto begin_states = [&](unsigned k) {
      multiply_tile_columns<false>(v, lift[0], name_rows(tile_at(k)));
      multiply_tile_columns<true>(v, lift[1], name_rows(tile_at(k)));
      end_products();
    };
    bring(0), bring(1), bring(2);
    __syncthreads();  // outputs before have been read
    tables.make<kTurnedThreads / 32>(call.parameters, call.shape.modes, channel, thread);
    __syncthreads();
    tables.sum_taps<kTurnedThreads>(thread);
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
    asm volatile("cp.async.wait_group 2;" ::: "memory");
    show_copies_to_products();
    __syncthreads();
    begin_products();
    begin_states(0);
    float2 carry{};
#pragma unroll 1
    for (unsigned k = 0; k < count; ++k) {
      const auto state_at = [&] {
        return (static_cast<long long>(s) * call.shape.channels + channel) * call.shape.modes +
               mode;
      };
      if (now == 0) {
        carry = {0.f, 0.f};
        if (call.initial_state != nullptr && mode < call.shape.modes) {
          const Complex<float> c = call.initial_state[state_at()];
          carry = {c.re, c.im};
        }
      }
      if (checkpoint != nullptr) {
        if (q == 0) *checkpoint = carry;
        checkpoint += row_numbers;
      }
      unsigned words[8];
      wait_for_products<0>();
      hold(v);
      scan_columns<false>(v, onward, carry);
      if (now == tiles - 1 && call.final_state != nullptr && mode < call.shape.modes)
#pragma unroll
        for (int c = 0; c < 8; ++c)
          if (8 * q + c == last_chunk)
            call.final_state[state_at()] = {v[c / 2][c % 2], v[c / 2][2 + c % 2]};
      pack_columns(v, words);
      store_columns(states + k % 2 * kTurnedBytes + place, words);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      show_copies_to_products();
      __syncthreads();
      bring(k + 3);
      begin_products();
      multiply_tile_columns<false>(sum, name_rows(toeplitz), name_rows(tile_at(k)));
      multiply_tile_columns<true>(sum, lower, name_rows(states + k % 2 * kTurnedBytes));
      end_products();
      begin_states(k + 1);
      if (k > 0) {
        const int written = now > 0 ? now - 1 : tiles - 1;
        runs.write(y, outs + (k - 1) % 2 * kTurnedBytes, left_of(written));
        advance(y, call.y.batch_stride, written);
      }
      load_columns(words, tile_at(k) + place);
      wait_for_products<1>();
      hold(sum);
      add_scaled_columns(sum, skip, words);
      pack_columns(sum, words);
      store_columns(outs + k % 2 * kTurnedBytes + place, words);
      if (now == tiles - 1) ++s;
      now = after(now);
    }
    wait_for_products<0>();
    __syncthreads();
    runs.write(y, outs + (count - 1) % 2 * kTurnedBytes, left_of(tiles - 1));
  }
#endif
}

}  // namespace ssm::cuda::device
