// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_backward.cuh"

namespace ssm::cuda::device {

struct BatchedShiftAdjoint {
  StepRows k, dk;
  Columns columns;
  const TapMatrix* taps;  // [D]  transposed
  const uint4* dshifted;
  float* squares;  // [D, tiles of columns, gridDim.z, 5, 16, 16]
};

struct BatchedShiftShared {
  ColumnRows incoming, outgoing;
  TapMatrix taps[kSide];
  uint4 dshifted[2][kSide][2][32];
  ChannelTile keys[2];  // of even and of odd steps
};

/// dk = shiftᵀ(gradient of shift(k)), and products of that gradient with k, 0 … 4 blocks apart.
/// Blocks of threads share the steps.
static __global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_shift_adjoint(const __grid_constant__ BatchedShiftAdjoint launch) {
  __shared__ Arrival rows_here[kSide], gradients_here[2][kSide], taps_here[kSide];
  if (threadIdx.x < kSide) {
    rows_here[threadIdx.x].begin();
    gradients_here[0][threadIdx.x].begin();
    gradients_here[1][threadIdx.x].begin();
    taps_here[threadIdx.x].begin();
    show_arrivals();
  }
  __syncthreads();
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ __align__(128) uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedShiftShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  const int share = (steps + gridDim.z - 1) / gridDim.z, begin = blockIdx.z * share,
            end = min(begin + share, steps);
  const Index tile = static_cast<Index>(channel) * gridDim.y + blockIdx.y;
  const uint4* const dshifted = launch.dshifted + tile * steps * kKeptWords;
  const auto bring_rows = [&](int step) {
    if (step < end) rows_here[warp].bring<1>({&shared.incoming}, {&launch.k}, place, step);
  };
  // Keys of a step meet the gradients of the next one. What follows a segment is the start of
  // another.
  const auto follows = [&](int step) { return step + 1 < steps || columns.segments > 1; };
  const auto bring_gradients = [&](int step) {
    if (step >= end || !follows(step)) return;
    auto& to = shared.dshifted[step & 1][warp];
    gradients_here[step & 1][warp].bring(
        to, dshifted + (step + 1 < steps ? step + 1 : 0) * kKeptWords, sizeof(to));
  };
  const auto scatter = [&](int step) {
    rows_here[warp].wait(step - (begin - 1));
    shared.keys[step & 1].scatter(shared.incoming);
    __syncwarp();
    bring_rows(step + 1);
  };
  const auto give = [&](int step) {
    give_steps<1>({&launch.dk}, {&shared.keys[step & 1]}, &shared.outgoing, place, step);
  };
  bring_rows(begin - 1);
  bring_gradients(begin - 1);
  bring_gradients(begin);
  taps_here[warp].bring(&shared.taps[warp], launch.taps + channel, sizeof(TapMatrix));
  if (begin - 1 < end) scatter(begin - 1);
  taps_here[warp].wait(0);
  float square[kStepBlocks + 1][2][4] = {};
  unsigned keys[16] = {};      // words, those of the step before first
  unsigned operands[16] = {};  // of the gradients: this step, then the next

  for (int step = begin - 1; step < end; ++step) {
    __syncthreads();
    if (step > begin) give(step - 1);
    if (step + 1 < end) scatter(step + 1);
    {
      unsigned next[8] = {};
      if (follows(step)) {
        gradients_here[step & 1][warp].wait((step - (begin - 1)) / 2);
        const auto& slots = shared.dshifted[step & 1][warp];
        read_kept(next, slots[0][lane], slots[1][lane]);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        operands[j] = operands[8 + j];
        operands[8 + j] = transpose_tile(next[j]);
      }
    }
    __syncwarp();
    bring_gradients(step + 2);
#pragma unroll
    for (int j = 0; j < 8; ++j) keys[j] = keys[8 + j];
    {
      unsigned words[8];
      shared.keys[step & 1].read_words(words);
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
          read_kept(beyond, from[lane], from[32 + lane]);
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
      unsigned words[8];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        words[j] = pack_bf16(sum[j / 2][2 * (j % 2)], sum[j / 2][2 * (j % 2) + 1]);
      shared.keys[step & 1].write_words(words);
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
  }
  __syncthreads();
  if (begin < end) give(end - 1);
#pragma unroll
  for (int d = 0; d <= kStepBlocks; ++d)
    write_square(launch.squares +
                     ((tile * gridDim.z + blockIdx.z) * (kStepBlocks + 1) + d) * kBlock * kBlock,
                 square[d]);
  finish_given_steps();
}

}  // namespace ssm::cuda::device
