// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_finish.cuh"
#include "scan/batched_h3_layout.cuh"
#include "scan/diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

struct BatchedAdjoint {
  ChannelRows<const BFloat16> v, q, dy;
  ChannelRows<BFloat16> dq, dv;
  Columns columns;
  int modes;
  const AdjointMatrices* matrices;       // [D]
  Operand<const float, 4> dfinal_state;  // [columns, D, P, 2]
  Operand<float, 4> dinitial_state;
  const uint4* kept;  // of the forward walk
  uint4* dshifted;    // [D, tiles of columns, steps, kKeptWords]  words of the gradient of shift(k)
  float2* sums;       // [D, tiles of columns, kAdjointSums, kMixerModes]
  float* taps;        // [D, tiles of columns, 16, 16]
};

struct BatchedAdjointShared {
  AdjointMatrices matrices[kSide];
  IncomingRows incoming[2][3];
  uint4 kept[2][kSide][2 * kKeptTensors][32];  // a slot a lane: no barrier between copy and use
  ChannelTile values, queries, gradients;
};

/// Adds squares[i, j] += left words i by right words j over the columns of two neighboring blocks.
__device__ inline void add_square(float (&square)[2][4], unsigned left0, unsigned left1,
                                  unsigned left2, unsigned left3, unsigned right0, unsigned right1,
                                  unsigned right2, unsigned right3) {
  const uint4 left{left0, left1, left2, left3};
  multiply_block(square[0], left, right0, right2);
  multiply_block(square[1], left, right1, right3);
}
__device__ inline void write_square(float* to, const float (&square)[2][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      to[(lane / 4 + 8 * (i / 2)) * kBlock + 8 * n + 2 * (lane % 4) + i % 2] = square[n][i];
}

/// r = conj(power)·r + w
__device__ inline void walk_back(float (&r)[4], const float (&w)[4], float2 power) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const float2 next =
        multiply_add(conjugate(power), float2{r[s], r[s + 2]}, float2{w[s], w[s + 2]});
    r[s] = next.x, r[s + 2] = next.y;
  }
}

/// The adjoint walk of the diagonal model and its gates: dq, dv, the gradient of shift(k), and the
/// sums that the parameters' gradients are made of. States of a step are computed again from the
/// one before it.
static __global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_adjoint(const BatchedAdjoint launch) {
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedAdjointShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  const Index tile = static_cast<Index>(channel) * gridDim.y + blockIdx.y;
  IncomingSteps values(launch.v, place, steps - 1), queries(launch.q, place, steps - 1),
      gradients(launch.dy, place, steps - 1);
  const uint4* next_kept =
      launch.kept + (tile * steps + steps - 1) * kKeptTensors * kKeptWords + lane;
  const auto fetch = [&](int step) {
    if (step >= 0) {
      IncomingRows* const to = shared.incoming[step % 2];
      values.fetch<-1>(to[0], place, step);
      queries.fetch<-1>(to[1], place, step);
      gradients.fetch<-1>(to[2], place, step);
#pragma unroll
      for (int i = 0; i < 2 * kKeptTensors; ++i)
        copy_async(&shared.kept[step % 2][warp][i][lane], next_kept + 32 * i);
      next_kept -= kKeptTensors * kKeptWords;
    }
    commit_copies();
  };
  stage(reinterpret_cast<uint4*>(shared.matrices), launch.matrices + blockIdx.x * kSide,
        sizeof(shared.matrices));
  fetch(steps - 1);
  fetch(steps - 2);
  const AdjointMatrices& mine = shared.matrices[warp];
  uint4* dshifted = launch.dshifted + (tile * steps + steps - 1) * kKeptWords;
  float adjoint[kModeTiles][4];  // of the state after a block
  read_states(adjoint, launch.dfinal_state, channel, columns.count(), launch.modes);
  float2 total[kModeTiles][kAdjointSums] = {};
  float square[2][4] = {};
  // What the slopes of powers weigh positions with: exact in bf16.
  const unsigned rising[2] = {pack_bf16(2.f * q + 1, 2.f * q + 2),
                              pack_bf16(2.f * q + 9, 2.f * q + 10)};
  const unsigned falling[2] = {pack_bf16(15 - 2.f * q, 14 - 2.f * q),
                               pack_bf16(7 - 2.f * q, 6 - 2.f * q)};

  for (int step = steps - 1; step >= 0; --step) {
    wait_for_all_but_last_copies();
    __syncwarp();
    shared.values.scatter(shared.incoming[step % 2][0]);
    shared.queries.scatter(shared.incoming[step % 2][1]);
    shared.gradients.scatter(shared.incoming[step % 2][2]);
    const auto& kept = shared.kept[step % 2][warp];
    __syncthreads();
    const int blocks = (columns.length - step * kStep) / kBlock;
    float dinput[kStepBlocks][4];
    unsigned inputs[8], outputs[8];  // operands: v ⊙ shift(k), q ⊙ dy
    {
      unsigned input_words[8], output_words[8], factor[8];
      read_kept(factor, kept[2 * kKeptShifted][lane], kept[2 * kKeptShifted + 1][lane]);
      shared.values.read_words(input_words);
#pragma unroll
      for (int j = 0; j < 8; ++j) input_words[j] = multiply_pairs(input_words[j], factor[j]);
      shared.queries.read_words(output_words);
      shared.gradients.read_words(factor);
      const float skip = mine.skip;
      unsigned ungated[8];
      read_kept(ungated, kept[2 * kKeptOutputs][lane], kept[2 * kKeptOutputs + 1][lane]);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        output_words[j] = multiply_pairs(output_words[j], factor[j]);
        shared.gradients.write_word(j, multiply_pairs(ungated[j], factor[j]));
        dinput[j / 2][2 * (j % 2)] = skip * low_of(output_words[j]);
        dinput[j / 2][2 * (j % 2) + 1] = skip * high_of(output_words[j]);
        inputs[j] = transpose_tile(input_words[j]);
        outputs[j] = transpose_tile(output_words[j]);
      }
#pragma unroll
      for (int i = 0; i < 8; i += 4)
        add_square(square, output_words[i], output_words[i + 1], output_words[i + 2],
                   output_words[i + 3], input_words[i], input_words[i + 1], input_words[i + 2],
                   input_words[i + 3]);
    }
    {
      const unsigned first = mine.toeplitz[0][lane], second = mine.toeplitz[1][lane];
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i)
        multiply_block(dinput[i], {first, 0u, second, first}, outputs[2 * i], outputs[2 * i + 1]);
    }
    unsigned start[8];
    read_kept(start, kept[2 * kKeptStates][lane], kept[2 * kKeptStates + 1][lane]);
#pragma unroll
    for (int m = 0; m < kModeTiles; ++m) {
      const uint4 lift = mine.lift[0].fragment[m][lane], lift1 = mine.lift[1].fragment[m][lane],
                  raise = mine.raise[0].fragment[m][lane], raise1 = mine.raise[1].fragment[m][lane],
                  spread = mine.spread.fragment[m][lane];
      const float2 power = mine.power[8 * m + g], scaled{kBlock * power.x, kBlock * power.y};
      float added[kStepBlocks][4] = {}, state[kStepBlocks][4];
      state[0][0] = low_of(start[2 * m]), state[0][1] = high_of(start[2 * m]);
      state[0][2] = low_of(start[2 * m + 1]), state[0][3] = high_of(start[2 * m + 1]);
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
        multiply_block(added[i], lift, inputs[2 * i], inputs[2 * i + 1]);
        multiply_block(added[i], lift1, inputs[2 * i], inputs[2 * i + 1]);
      }
#pragma unroll
      for (int i = 0; i + 1 < kStepBlocks; ++i)
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const float2 next = multiply_add(power, float2{state[i][s], state[i][s + 2]},
                                           float2{added[i][s], added[i][s + 2]});
          state[i + 1][s] = next.x, state[i + 1][s + 2] = next.y;
        }
      float(&r)[4] = adjoint[m];
#pragma unroll
      for (int i = kStepBlocks - 1; i >= 0; --i) {
        if (i >= blocks) continue;
        multiply_block(dinput[i], spread, transpose_tile(pack_bf16(r[0], r[1])),
                       transpose_tile(pack_bf16(r[2], r[3])));
        float raised[4] = {}, raised_slope[4] = {}, lift_slope[4] = {};
        multiply_block(raised, raise, outputs[2 * i], outputs[2 * i + 1]);
        multiply_block(raised, raise1, outputs[2 * i], outputs[2 * i + 1]);
        multiply_block(raised_slope, raise, multiply_pairs(outputs[2 * i], rising[0]),
                       multiply_pairs(outputs[2 * i + 1], rising[1]));
        multiply_block(lift_slope, lift, multiply_pairs(inputs[2 * i], falling[0]),
                       multiply_pairs(inputs[2 * i + 1], falling[1]));
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const float2 after{r[s], r[s + 2]}, before = conjugate({state[i][s], state[i][s + 2]});
          float2(&sum)[kAdjointSums] = total[m];
          sum[kSumC] = multiply_add(before, {raised[s], raised[s + 2]}, sum[kSumC]);
          sum[kSumB] = multiply_add(conjugate({added[i][s], added[i][s + 2]}), after, sum[kSumB]);
          const float2 slope = multiply_add(scaled, float2{state[i][s], state[i][s + 2]},
                                            float2{lift_slope[s], lift_slope[s + 2]});
          sum[kSumA] = multiply_add(conjugate(slope), after, sum[kSumA]);
          sum[kSumA] = multiply_add(before, {raised_slope[s], raised_slope[s + 2]}, sum[kSumA]);
        }
        walk_back(r, raised, power);
      }
    }

    unsigned words[8], shifted[8];
    shared.values.read_words(words);
    read_kept(shifted, kept[2 * kKeptShifted][lane], kept[2 * kKeptShifted + 1][lane]);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float(&x)[4] = dinput[j / 2];
      const int c = 2 * (j % 2);
      shared.values.write_word(
          j, pack_bf16(x[c] * low_of(shifted[j]), x[c + 1] * high_of(shifted[j])));
      words[j] = pack_bf16(x[c] * low_of(words[j]), x[c + 1] * high_of(words[j]));
    }
    keep_words(dshifted, words);
    dshifted -= kKeptWords;
    fetch(step - 2);
    __syncthreads();
    shared.values.gather(launch.dv, place, step);
    shared.gradients.gather(launch.dq, place, step);
    __syncwarp();
  }

  write_states(launch.dinitial_state, adjoint, channel, columns.count(), launch.modes);
  write_square(launch.taps + tile * kBlock * kBlock, square);
#pragma unroll
  for (int m = 0; m < kModeTiles; ++m)
#pragma unroll
    for (int i = 0; i < kAdjointSums; ++i) {
      float2 v = total[m][i];
#pragma unroll
      for (int other = 1; other < 4; other *= 2) {
        v.x += __shfl_xor_sync(~0u, v.x, other);
        v.y += __shfl_xor_sync(~0u, v.y, other);
      }
      if (q == 0) launch.sums[(tile * kAdjointSums + i) * kMixerModes + 8 * m + g] = v;
    }
}

/// The same for the gradient of the initial states alone.
static __global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_adjoint_states(const BatchedAdjoint launch) {
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedAdjointShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  IncomingSteps queries(launch.q, place, steps - 1), gradients(launch.dy, place, steps - 1);
  const auto fetch = [&](int step) {
    if (step >= 0) {
      queries.fetch<-1>(shared.incoming[step % 2][0], place, step);
      gradients.fetch<-1>(shared.incoming[step % 2][1], place, step);
    }
    commit_copies();
  };
  stage(reinterpret_cast<uint4*>(shared.matrices), launch.matrices + blockIdx.x * kSide,
        sizeof(shared.matrices));
  fetch(steps - 1);
  fetch(steps - 2);
  const AdjointMatrices& mine = shared.matrices[warp];
  float adjoint[kModeTiles][4];
  read_states(adjoint, launch.dfinal_state, channel, columns.count(), launch.modes);
  for (int step = steps - 1; step >= 0; --step) {
    wait_for_all_but_last_copies();
    __syncwarp();
    shared.queries.scatter(shared.incoming[step % 2][0]);
    shared.gradients.scatter(shared.incoming[step % 2][1]);
    __syncwarp();
    fetch(step - 2);
    __syncthreads();
    unsigned outputs[8], factor[8];
    shared.queries.read_words(outputs);
    shared.gradients.read_words(factor);
#pragma unroll
    for (int j = 0; j < 8; ++j) outputs[j] = transpose_tile(multiply_pairs(outputs[j], factor[j]));
    const int blocks = (columns.length - step * kStep) / kBlock;
#pragma unroll
    for (int m = 0; m < kModeTiles; ++m) {
      const uint4 raise = mine.raise[0].fragment[m][lane], rest = mine.raise[1].fragment[m][lane];
#pragma unroll
      for (int i = kStepBlocks - 1; i >= 0; --i) {
        if (i >= blocks) continue;
        float raised[4] = {};
        multiply_block(raised, raise, outputs[2 * i], outputs[2 * i + 1]);
        multiply_block(raised, rest, outputs[2 * i], outputs[2 * i + 1]);
        walk_back(adjoint[m], raised, mine.power[8 * m + g]);
      }
    }
    __syncthreads();
  }
  write_states(launch.dinitial_state, adjoint, channel, columns.count(), launch.modes);
}

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
