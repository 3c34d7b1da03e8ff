// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_copies.cuh"
#include "scan/batched_h3_finish.cuh"

namespace ssm::cuda::device {

struct BatchedAdjoint {
  StepRows v, q, dy, dq, dv;
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
  ColumnRows incoming[3], outgoing[2];
  AdjointMatrices matrices[kSide];
  uint4 kept[2][kSide][2 * kKeptTensors][32];
  ChannelTile values[2], queries[2], gradients[2];  // of even and of odd steps
};

/// Adds squares[i, j] += left words i by right words j over the columns of two neighboring blocks.
/// A tile of states is two words a block as well.
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

/// Sums over blocks of a tile of modes: products of states and of their adjoints with what they
/// meet at each position. [states, positions], as accumulators of two halves of the positions.
struct TileSums {
  float outputs[2][4];  // states before a block by outputs' gradients
  float inputs[2][4];   // adjoints after a block by inputs
  float2 dot;           // conj(state before)·(adjoint after)
};
/// Adds Σ conj(sums)·matrix over this lane's positions, and the same with position i weighed by
/// first_weight + slope·i. The matrix has two terms.
__device__ inline void join_positions(const float (&sum)[2][4], const uint4& high, const uint4& low,
                                      float first_weight, float slope, float2& plain,
                                      float2& weighed) {
  const int q = threadIdx.x % 4;
  const unsigned real[2] = {high.x, high.z}, imaginary[2] = {high.y, high.w},
                 real1[2] = {low.x, low.z}, imaginary1[2] = {low.y, low.w};
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto part = [i](unsigned a, unsigned b) {
        return i == 0 ? low_of(a) + low_of(b) : high_of(a) + high_of(b);
      };
      const float2 m{part(real[half], real1[half]), part(imaginary[half], imaginary1[half])};
      const float2 v = multiply(conjugate(float2{sum[half][i], sum[half][i + 2]}), m);
      const float weight = first_weight + slope * static_cast<float>(8 * half + 2 * q + i);
      plain.x += v.x, plain.y += v.y;
      weighed.x += weight * v.x, weighed.y += weight * v.y;
    }
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
    batched_h3_adjoint(const __grid_constant__ BatchedAdjoint launch) {
  __shared__ Arrival rows_here[kSide], kept_here[2][kSide], matrices_here[kSide];
  if (threadIdx.x < kSide) {
    rows_here[threadIdx.x].begin();
    kept_here[0][threadIdx.x].begin();
    kept_here[1][threadIdx.x].begin();
    matrices_here[threadIdx.x].begin();
    show_arrivals();
  }
  __syncthreads();
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ __align__(128) uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedAdjointShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  const Index tile = static_cast<Index>(channel) * gridDim.y + blockIdx.y;
  const auto bring_rows = [&](int step) {
    if (step < 0) return;
    rows_here[warp].bring<3>({&shared.incoming[0], &shared.incoming[1], &shared.incoming[2]},
                             {&launch.v, &launch.q, &launch.dy}, place, step);
  };
  const auto bring_kept = [&](int step) {
    if (step < 0) return;
    auto& to = shared.kept[step % 2][warp];
    kept_here[step % 2][warp].bring(
        to, launch.kept + (tile * steps + step) * kKeptTensors * kKeptWords, sizeof(to));
  };
  const auto scatter = [&](int step) {
    rows_here[warp].wait(steps - 1 - step);
    shared.values[step % 2].scatter(shared.incoming[0]);
    shared.queries[step % 2].scatter(shared.incoming[1]);
    shared.gradients[step % 2].scatter(shared.incoming[2]);
    __syncwarp();
    bring_rows(step - 1);
  };
  const auto give = [&](int step) {
    give_steps<2>({&launch.dv, &launch.dq}, {&shared.values[step % 2], &shared.gradients[step % 2]},
                  shared.outgoing, place, step);
  };
  const auto move = [&](int step) {
    if (step + 1 < steps) give(step + 1);
    if (step > 0) scatter(step - 1);
  };
  // One of the two warps of a scheduler moves while the other one has products.
  const bool moves_first = warp < kSide / 2;
  bring_rows(steps - 1);
  matrices_here[warp].bring(&shared.matrices[warp], launch.matrices + channel,
                            sizeof(AdjointMatrices));
  bring_kept(steps - 1);
  bring_kept(steps - 2);
  const AdjointMatrices& mine = shared.matrices[warp];
  uint4* dshifted = launch.dshifted + (tile * steps + steps - 1) * kKeptWords;
  float adjoint[kModeTiles][4];  // of the state after a block
  read_states(adjoint, launch.dfinal_state, channel, columns.count(), launch.modes);
  TileSums total[kModeTiles] = {};
  float square[2][4] = {};

  scatter(steps - 1);
  matrices_here[warp].wait(0);
  for (int step = steps - 1; step >= 0; --step) {
    auto &values = shared.values[step % 2], &gradients = shared.gradients[step % 2];
    const auto& kept = shared.kept[step % 2][warp];
    __syncthreads();
    if (moves_first) move(step);
    kept_here[step % 2][warp].wait((steps - 1 - step) / 2);
    const int blocks = (columns.length - step * kStep) / kBlock;
    float dinput[kStepBlocks][4];
    unsigned inputs[8], outputs[8];  // operands: v ⊙ shift(k), q ⊙ dy
    unsigned input_words[8], output_words[8];
    {
      unsigned factor[8];
      read_kept(factor, kept[2 * kKeptShifted][lane], kept[2 * kKeptShifted + 1][lane]);
      values.read_words(input_words);
#pragma unroll
      for (int j = 0; j < 8; ++j) input_words[j] = multiply_pairs(input_words[j], factor[j]);
      shared.queries[step % 2].read_words(output_words);
      gradients.read_words(factor);
      const float skip = mine.skip;
      unsigned ungated[8];
      read_kept(ungated, kept[2 * kKeptOutputs][lane], kept[2 * kKeptOutputs + 1][lane]);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        output_words[j] = multiply_pairs(output_words[j], factor[j]);
        ungated[j] = multiply_pairs(ungated[j], factor[j]);
        dinput[j / 2][2 * (j % 2)] = skip * low_of(output_words[j]);
        dinput[j / 2][2 * (j % 2) + 1] = skip * high_of(output_words[j]);
        inputs[j] = transpose_tile(input_words[j]);
        outputs[j] = transpose_tile(output_words[j]);
      }
      gradients.write_words(ungated);
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
      const float2 power = mine.power[8 * m + g];
      unsigned before[kStepBlocks][2], after[kStepBlocks][2];  // states, adjoints in bf16
      {
        float added[kStepBlocks][4] = {}, state[4];
        state[0] = low_of(start[2 * m]), state[1] = high_of(start[2 * m]);
        state[2] = low_of(start[2 * m + 1]), state[3] = high_of(start[2 * m + 1]);
#pragma unroll
        for (int i = 0; i + 1 < kStepBlocks; ++i) {
          multiply_block(added[i], lift, inputs[2 * i], inputs[2 * i + 1]);
          multiply_block(added[i], lift1, inputs[2 * i], inputs[2 * i + 1]);
        }
        before[0][0] = start[2 * m], before[0][1] = start[2 * m + 1];
#pragma unroll
        for (int i = 0; i + 1 < kStepBlocks; ++i) {
#pragma unroll
          for (int s = 0; s < 2; ++s) {
            const float2 next = multiply_add(power, float2{state[s], state[s + 2]},
                                             float2{added[i][s], added[i][s + 2]});
            state[s] = next.x, state[s + 2] = next.y;
          }
          before[i + 1][0] = pack_bf16(state[0], state[1]);
          before[i + 1][1] = pack_bf16(state[2], state[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < kStepBlocks; i += 2)
        add_square(total[m].outputs, before[i][0], before[i][1], before[i + 1][0], before[i + 1][1],
                   output_words[2 * i], output_words[2 * i + 1], output_words[2 * i + 2],
                   output_words[2 * i + 3]);
      float(&r)[4] = adjoint[m];
      float raised[kStepBlocks][4] = {};
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
        multiply_block(raised[i], raise, outputs[2 * i], outputs[2 * i + 1]);
        multiply_block(raised[i], raise1, outputs[2 * i], outputs[2 * i + 1]);
      }
#pragma unroll
      for (int i = kStepBlocks - 1; i >= 0; --i) {
        const bool there = i < blocks;
        after[i][0] = there ? pack_bf16(r[0], r[1]) : 0u;
        after[i][1] = there ? pack_bf16(r[2], r[3]) : 0u;
        if (!there) continue;
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const float2 state{s == 0 ? low_of(before[i][0]) : high_of(before[i][0]),
                             s == 0 ? low_of(before[i][1]) : high_of(before[i][1])};
          total[m].dot = multiply_add(conjugate(state), float2{r[s], r[s + 2]}, total[m].dot);
        }
        walk_back(r, raised[i], power);
      }
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i)
        multiply_block(dinput[i], spread, transpose_tile(after[i][0]), transpose_tile(after[i][1]));
#pragma unroll
      for (int i = 0; i < kStepBlocks; i += 2)
        add_square(total[m].inputs, after[i][0], after[i][1], after[i + 1][0], after[i + 1][1],
                   input_words[2 * i], input_words[2 * i + 1], input_words[2 * i + 2],
                   input_words[2 * i + 3]);
    }
    if (!moves_first) move(step);
    unsigned words[8], shifted[8];
    values.read_words(words);
    read_kept(shifted, kept[2 * kKeptShifted][lane], kept[2 * kKeptShifted + 1][lane]);
    __syncwarp();
    bring_kept(step - 2);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float(&x)[4] = dinput[j / 2];
      const int c = 2 * (j % 2);
      const float low = x[c], high = x[c + 1];
      shifted[j] = pack_bf16(low * low_of(shifted[j]), high * high_of(shifted[j]));
      words[j] = pack_bf16(low * low_of(words[j]), high * high_of(words[j]));
    }
    values.write_words(shifted);
    keep_words(dshifted, words);
    dshifted -= kKeptWords;
  }
  __syncthreads();
  give(0);

  write_states(launch.dinitial_state, adjoint, channel, columns.count(), launch.modes);
  write_square(launch.taps + tile * kBlock * kBlock, square);
#pragma unroll
  for (int m = 0; m < kModeTiles; ++m) {
    const float2 power = mine.power[8 * m + g], scaled{kBlock * power.x, kBlock * power.y};
    float2 sum[kAdjointSums] = {}, weighed{};
    join_positions(total[m].outputs, mine.raise[0].fragment[m][lane],
                   mine.raise[1].fragment[m][lane], 1.f, 1.f, sum[kSumC], sum[kSumA]);
    // Conjugates: these sums are products of adjoints and inputs.
    join_positions(total[m].inputs, mine.lift[0].fragment[m][lane], mine.lift[1].fragment[m][lane],
                   kBlock - 1.f, -1.f, sum[kSumB], weighed);
    sum[kSumB] = conjugate(sum[kSumB]);
    sum[kSumA].x += weighed.x, sum[kSumA].y -= weighed.y;
    sum[kSumA] = multiply_add(conjugate(scaled), total[m].dot, sum[kSumA]);
#pragma unroll
    for (int i = 0; i < kAdjointSums; ++i) {
      float2 v = sum[i];
#pragma unroll
      for (int other = 1; other < 4; other *= 2) {
        v.x += __shfl_xor_sync(~0u, v.x, other);
        v.y += __shfl_xor_sync(~0u, v.y, other);
      }
      if (q == 0) launch.sums[(tile * kAdjointSums + i) * kMixerModes + 8 * m + g] = v;
    }
  }
  finish_given_steps();
}

/// The same for the gradient of the initial states alone.
static __global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_adjoint_states(const __grid_constant__ BatchedAdjoint launch) {
  __shared__ Arrival rows_here[kSide], matrices_here[kSide];
  if (threadIdx.x < kSide) {
    rows_here[threadIdx.x].begin();
    matrices_here[threadIdx.x].begin();
    show_arrivals();
  }
  __syncthreads();
  wait_for_predecessors();
  let_successor_begin();
  extern __shared__ __align__(128) uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedAdjointShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  const auto bring_rows = [&](int step) {
    if (step < 0) return;
    rows_here[warp].bring<2>({&shared.incoming[1], &shared.incoming[2]}, {&launch.q, &launch.dy},
                             place, step);
  };
  const auto scatter = [&](int step) {
    rows_here[warp].wait(steps - 1 - step);
    shared.queries[step % 2].scatter(shared.incoming[1]);
    shared.gradients[step % 2].scatter(shared.incoming[2]);
    __syncwarp();
    bring_rows(step - 1);
  };
  bring_rows(steps - 1);
  matrices_here[warp].bring(&shared.matrices[warp], launch.matrices + channel,
                            sizeof(AdjointMatrices));
  scatter(steps - 1);
  matrices_here[warp].wait(0);
  const AdjointMatrices& mine = shared.matrices[warp];
  float adjoint[kModeTiles][4];
  read_states(adjoint, launch.dfinal_state, channel, columns.count(), launch.modes);
  for (int step = steps - 1; step >= 0; --step) {
    __syncthreads();
    if (step > 0) scatter(step - 1);
    unsigned outputs[8], factor[8];
    shared.queries[step % 2].read_words(outputs);
    shared.gradients[step % 2].read_words(factor);
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
  }
  write_states(launch.dinitial_state, adjoint, channel, columns.count(), launch.modes);
}

}  // namespace ssm::cuda::device
