// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_backward.cuh"

namespace ssm::cuda::device {

struct BatchedShiftAdjoint {
  ChannelRows<const BFloat16> k;
  ChannelRows<BFloat16> dk;
  Columns columns;
  const TapMatrix* taps;  // [D]  transposed
  const uint4* dshifted;
  float* squares;  // [D, tiles of columns, gridDim.z, 5, 16, 16]
};

struct BatchedShiftShared {
  TapMatrix taps[kSide];
  IncomingRows incoming[2];
  uint4 dshifted[2][kSide][2][32];  // a slot a lane
  ChannelTile keys;
};

/// dk = shiftᵀ(gradient of shift(k)), and products of that gradient with k, 0 … 4 blocks apart.
/// Blocks of threads share the steps.
static __global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_shift_adjoint(const BatchedShiftAdjoint launch) {
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedShiftShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  const int share = (steps + gridDim.z - 1) / gridDim.z, begin = blockIdx.z * share,
            end = min(begin + share, steps);
  const Index tile = static_cast<Index>(channel) * gridDim.y + blockIdx.y;
  const uint4* const dshifted = launch.dshifted + tile * steps * kKeptWords + lane;
  // Keys of a step come with the gradients of the next one. What follows a segment is the start of
  // another.
  const auto fetch = [&](int step) {
    if (step < end) {
      fetch_step(shared.incoming[step & 1], launch.k, place, step);
      const bool inside = step + 1 < steps;
      const uint4* const from = dshifted + (inside ? step + 1 : 0) * kKeptWords;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        copy_async_or_zero(&shared.dshifted[step & 1][warp][i][lane], from + 32 * i,
                           inside || columns.segments > 1);
    }
    commit_copies();
  };
  stage(reinterpret_cast<uint4*>(shared.taps), launch.taps + blockIdx.x * kSide,
        sizeof(shared.taps));
  fetch(begin - 1);
  fetch(begin);
  float square[kStepBlocks + 1][2][4] = {};
  unsigned keys[16] = {};      // words, those of the step before first
  unsigned operands[16] = {};  // of the gradients: this step, then the next

  for (int step = begin - 1; step < end; ++step) {
    wait_for_all_but_last_copies();
    __syncwarp();
    shared.keys.scatter(shared.incoming[step & 1]);
    {
      unsigned next[8];
      const auto& slots = shared.dshifted[step & 1][warp];
      read_kept(next, slots[0][lane], slots[1][lane]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        operands[j] = operands[8 + j];
        operands[8 + j] = transpose_tile(next[j]);
      }
    }
    __syncwarp();
    fetch(step + 2);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 8; ++j) keys[j] = keys[8 + j];
    {
      unsigned words[8];
      shared.keys.read_words(words);
#pragma unroll
      for (int j = 0; j < 8; ++j) keys[8 + j] = words[j];
    }
    __syncwarp();
    if (step >= begin) {
      if (step + 1 == steps && columns.segments > 1) {
        const bool last = columns.segment(blockIdx.y * kSide + lane / 4) + 1 == columns.segments;
        unsigned beyond[8] = {};  // what follows the tile's last column begins the next tile
        if (blockIdx.y + 1 < gridDim.y) {
          const uint4* const from = dshifted + steps * kKeptWords;
          read_kept(beyond, from[0], from[32]);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const unsigned following = __shfl_down_sync(~0u, operands[8 + j], 4),
                         across = __shfl_sync(~0u, transpose_tile(beyond[j]), lane % 4);
          operands[8 + j] = last ? 0u : lane / 4 + 1 == kSide ? across : following;
        }
      }
      float sum[kStepBlocks][4] = {};
#pragma unroll
      for (int term = 0; term < 2; ++term) {
        unsigned word[kTapWords + 2];
        word[0] = word[kTapWords + 1] = 0;
#pragma unroll
        for (int h = 0; h < kTapWords; ++h) word[h + 1] = shared.taps[warp].word[term][h][lane];
#pragma unroll
        for (int d = 0; d <= kStepBlocks; ++d)
#pragma unroll
          for (int i = 0; i < kStepBlocks; ++i)
            multiply_block(sum[i], {word[2 * d + 1], word[2 * d], word[2 * d + 2], word[2 * d + 1]},
                           operands[2 * (i + d)], operands[2 * (i + d) + 1]);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        shared.keys.write_word(j, pack_bf16(sum[j / 2][2 * (j % 2)], sum[j / 2][2 * (j % 2) + 1]));
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        unsigned here[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) here[j] = transpose_tile(operands[i + j]);
#pragma unroll
        for (int d = 0; d <= kStepBlocks; ++d)
          add_square(square[d], here[0], here[1], here[2], here[3], keys[8 + i - 2 * d],
                     keys[9 + i - 2 * d], keys[10 + i - 2 * d], keys[11 + i - 2 * d]);
      }
    }
    __syncthreads();
    if (step >= begin) shared.keys.gather(launch.dk, place, step);
    __syncwarp();
  }
#pragma unroll
  for (int d = 0; d <= kStepBlocks; ++d)
    write_square(launch.squares +
                     ((tile * gridDim.z + blockIdx.z) * (kStepBlocks + 1) + d) * kBlock * kBlock,
                 square[d]);
}

}  // namespace ssm::cuda::device
