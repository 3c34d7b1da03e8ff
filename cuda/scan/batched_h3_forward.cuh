// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_copies.cuh"

namespace ssm::cuda::device {

struct BatchedForward {
  StepRows k, v, gate, y;
  Columns columns;
  int modes;
  const ForwardMatrices* matrices;  // [D]
  const float* history;             // [D, S, 64]  what the initial shift state adds, or null
  Operand<const float, 4> initial;  // [columns, D, P, 2]
  Operand<float, 4> final_state;
  uint4* kept;  // [D, tiles of columns, steps, kKeptTensors, kKeptWords]
};

struct BatchedForwardShared {
  ColumnRows incoming[3], outgoing;
  ForwardMatrices matrices[kSide];
  ChannelTile keys[2], values[2], gates[2];  // of even and of odd steps
  uint4 inputs[2][kSide][2][32];  // words of v ⊙ shift(k), from one group of warps to the other
};

// Barriers of a block by number, the threads that arrive among them.
enum Barrier { kShiftGroup = 1, kFull, kEmpty = kFull + 2 };
inline constexpr int kForwardThreads = 2 * kMixerThreads;
__device__ inline void wait_at(int barrier, int threads) {
  asm volatile("bar.sync %0,%1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void arrive_at(int barrier, int threads) {
  asm volatile("bar.arrive %0,%1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// shift(k) of a step: `before` and `here` are the operands of the step before and of this one.
__device__ inline void shift_step(float (&sum)[kStepBlocks][4], const TapMatrix& taps,
                                  const unsigned (&before)[8], const unsigned (&here)[8]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int term = 0; term < 2; ++term) {
    unsigned word[kTapWords + 2];  // from half a block before the diagonal on
    word[0] = word[kTapWords + 1] = 0;
#pragma unroll
    for (int h = 0; h < kTapWords; ++h) word[h + 1] = taps.word[term][h][lane];
#pragma unroll
    for (int d = 0; d <= kStepBlocks; ++d) {
      const unsigned left[4] = {word[2 * d + 1], word[2 * d + 2], word[2 * d], word[2 * d + 1]};
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
        const int from = i - d;
        multiply_tile(sum[i], left, from < 0 ? before[2 * (from + kStepBlocks)] : here[2 * from],
                      from < 0 ? before[2 * (from + kStepBlocks) + 1] : here[2 * from + 1]);
      }
    }
  }
}

/// What the forward walk leaves beside the final states: y, what the adjoint walk needs, both, or
/// nothing.
enum class Leaves { output, tape, output_and_tape, states };

/// What warps wait for.
struct ForwardArrivals {
  Arrival keys[kSide], gates[kSide], matrices[kSide];
};

/// The first group of warps: v ⊙ shift(k), step by step.
template <bool Output, bool Keep>
__device__ inline void walk_shift(const BatchedForward& launch, BatchedForwardShared& shared,
                                  ForwardArrivals& arrivals, uint4* kept) {
  const int warp = side_warp(), lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const ColumnPlace place(columns);
  const int steps = columns.steps();
  unsigned before[8] = {};
  int arrived = 0;
  const auto bring = [&](int step) {
    if (step < steps)
      arrivals.keys[warp].bring<2>({&shared.incoming[0], &shared.incoming[1]},
                                   {&launch.k, &launch.v}, place, step);
  };
  const auto scatter = [&](int step) {
    arrivals.keys[warp].wait(arrived++);
    shared.keys[step & 1].scatter(shared.incoming[0]);
    if (step >= 0) shared.values[step & 1].scatter(shared.incoming[1]);
    __syncwarp();
    bring(step + 1);
  };
  const auto bring_gates = [&](int step) {
    if (step < steps)
      arrivals.gates[warp].bring<1>({&shared.incoming[2]}, {&launch.gate}, place, step);
  };
  // Waits until the second group is through with the step two before.
  const auto take_back = [&](int step) {
    if (step < 2) return;
    wait_at(kEmpty + step % 2, kForwardThreads);
    if constexpr (Output)
      give_steps<1>({&launch.y}, {&shared.gates[step % 2]}, &shared.outgoing, place, step - 2);
  };
  if constexpr (Output) bring_gates(0);
  if (columns.segments > 1) {
    bring(-1);
    scatter(-1);
    wait_at(kShiftGroup, kMixerThreads);
    shared.keys[1].read_operands(before);
  } else {
    bring(0);
  }
  scatter(0);
  arrivals.matrices[warp].wait(0);
  __syncthreads();  // the matrices are there
  const TapMatrix& taps = shared.matrices[warp].taps;
  for (int step = 0; step < steps; ++step) {
    const int half = step % 2;
    wait_at(kShiftGroup, kMixerThreads);
    if (step + 1 < steps) scatter(step + 1);

    float sum[kStepBlocks][4] = {};
    {
      unsigned here[8];
      shared.keys[half].read_operands(here);
      shift_step(sum, taps, before, here);
#pragma unroll
      for (int j = 0; j < 8; ++j) before[j] = here[j];
    }
    if (step == 0 && launch.history != nullptr) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int column = blockIdx.y * kSide + 2 * q + s;
        if (column >= columns.count() || columns.segment(column) != 0) continue;
        const float* const history =
            launch.history +
            (static_cast<Index>(channel) * columns.sequences + columns.sequence(column)) *
                kMixerTaps;
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j / 2][2 * (j % 2) + s] += history[8 * j + g];
      }
    }
    unsigned words[8], value[8];
    [[maybe_unused]] unsigned shifted[8];
    shared.values[half].read_words(value);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float(&x)[4] = sum[j / 2];
      const int c = 2 * (j % 2);
      if constexpr (Keep) shifted[j] = pack_bf16(x[c], x[c + 1]);
      words[j] = pack_bf16(x[c] * low_of(value[j]), x[c + 1] * high_of(value[j]));
    }
    if constexpr (Keep) {
      keep_words(kept + kKeptShifted * kKeptWords, shifted);
      kept += kKeptTensors * kKeptWords;
    }
    take_back(step);
    if constexpr (Output) {
      arrivals.gates[warp].wait(step);
      shared.gates[half].scatter(shared.incoming[2]);
      __syncwarp();
      bring_gates(step + 1);
    }
    keep_words(&shared.inputs[half][warp][0][0], words);
    arrive_at(kFull + half, kForwardThreads);
  }
  take_back(steps);
  take_back(steps + 1);
  if constexpr (Output) finish_given_steps();
}

/// The second one: the diagonal model and the output, a step behind.
template <bool Output, bool Keep>
__device__ inline void walk_diagonal(const BatchedForward& launch, BatchedForwardShared& shared,
                                     ForwardArrivals& arrivals, uint4* kept) {
  const int warp = side_warp(), lane = threadIdx.x % 32, g = lane / 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const int steps = columns.steps();
  arrivals.matrices[warp].wait(0);
  __syncthreads();  // the matrices are there
  const ForwardMatrices& mine = shared.matrices[warp];
  float state[kModeTiles][4];
  read_states(state, launch.initial, channel, columns.count(), launch.modes);
  for (int step = 0; step < steps; ++step) {
    const int half = step % 2;
    wait_at(kFull + half, kForwardThreads);
    unsigned words[8], operands[8];
    read_kept(words, shared.inputs[half][warp][0][lane], shared.inputs[half][warp][1][lane]);
    if constexpr (!Output) arrive_at(kEmpty + half, kForwardThreads);
    if constexpr (Keep) {
      unsigned states[8];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        states[j] = pack_bf16(state[j / 2][2 * (j % 2)], state[j / 2][2 * (j % 2) + 1]);
      keep_words(kept + kKeptStates * kKeptWords, states);
    }
    float sum[kStepBlocks][4] = {};
#pragma unroll
    for (int j = 0; j < 8; ++j) operands[j] = transpose_tile(words[j]);
    if constexpr (Output || Keep) {
      const unsigned first = mine.toeplitz[0][lane], second = mine.toeplitz[1][lane];
      const float skip = mine.skip;
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          sum[i][2 * c] = skip * low_of(words[2 * i + c]);
          sum[i][2 * c + 1] = skip * high_of(words[2 * i + c]);
        }
        multiply_block(sum[i], {first, second, 0u, first}, operands[2 * i], operands[2 * i + 1]);
      }
    }
    const int blocks = (columns.length - step * kStep) / kBlock;
#pragma unroll
    for (int m = 0; m < kModeTiles; ++m) {
      const uint4 lift = mine.lift[0].fragment[m][lane], rest = mine.lift[1].fragment[m][lane],
                  lower = mine.lower.fragment[m][lane];
      const float2 power = mine.power[8 * m + g];
      float added[kStepBlocks][4] = {};
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
        multiply_block(added[i], lift, operands[2 * i], operands[2 * i + 1]);
        multiply_block(added[i], rest, operands[2 * i], operands[2 * i + 1]);
      }
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i) {
        if (i >= blocks) break;
        float(&s)[4] = state[m];
        if constexpr (Output || Keep)
          multiply_block(sum[i], lower, transpose_tile(pack_bf16(s[0], s[1])),
                         transpose_tile(pack_bf16(s[2], s[3])));
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float2 next =
              multiply_add(power, float2{s[c], s[c + 2]}, float2{added[i][c], added[i][c + 2]});
          s[c] = next.x, s[c + 2] = next.y;
        }
      }
    }
    if constexpr (Keep) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        words[j] = pack_bf16(sum[j / 2][2 * (j % 2)], sum[j / 2][2 * (j % 2) + 1]);
      keep_words(kept + kKeptOutputs * kKeptWords, words);
      kept += kKeptTensors * kKeptWords;
    }
    if constexpr (Output) {
      shared.gates[half].read_words(words);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float(&x)[4] = sum[j / 2];
        const int c = 2 * (j % 2);
        words[j] = pack_bf16(x[c] * low_of(words[j]), x[c + 1] * high_of(words[j]));
      }
      shared.gates[half].write_words(words);
      arrive_at(kEmpty + half, kForwardThreads);
    }
  }
  write_states(launch.final_state, state, channel, columns.count(), launch.modes);
}

/// y = gate ⊙ diagonal(v ⊙ shift(k)), states in and out, by two groups of eight warps: twice as
/// many are under way, and each has half of the code.
template <Leaves What>
__global__ void __launch_bounds__(kForwardThreads, 1)
    batched_h3_forward(const __grid_constant__ BatchedForward launch) {
  __shared__ ForwardArrivals arrivals;
  if (threadIdx.x < kSide) {
    arrivals.keys[threadIdx.x].begin();
    arrivals.gates[threadIdx.x].begin();
    arrivals.matrices[threadIdx.x].begin();
    show_arrivals();
  }
  __syncthreads();
  wait_for_predecessors();
  let_successor_begin();
  constexpr bool Keep = What == Leaves::tape || What == Leaves::output_and_tape;
  constexpr bool Output = What == Leaves::output || What == Leaves::output_and_tape;
  extern __shared__ __align__(128) uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedForwardShared*>(bytes);
  const Index channel = static_cast<Index>(blockIdx.x) * kSide + side_warp();
  uint4* const kept = launch.kept + (channel * gridDim.y + blockIdx.y) * launch.columns.steps() *
                                        kKeptTensors * kKeptWords;
  if (threadIdx.x < kMixerThreads) {
    arrivals.matrices[side_warp()].bring(&shared.matrices[side_warp()], launch.matrices + channel,
                                         sizeof(ForwardMatrices));
    walk_shift<Output, Keep>(launch, shared, arrivals, kept);
  } else {
    walk_diagonal<Output, Keep>(launch, shared, arrivals, kept);
  }
}

}  // namespace ssm::cuda::device
