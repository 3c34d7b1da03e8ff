// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "scan/batched_h3_layout.cuh"
#include "scan/diagonal_scan_tile.cuh"

namespace ssm::cuda::device {

struct BatchedForward {
  ChannelRows<const BFloat16> k, v, gate;
  ChannelRows<BFloat16> y;
  Columns columns;
  int modes;
  const ForwardMatrices* matrices;  // [D]
  const float* history;             // [D, S, 64]  what the initial shift state adds, or null
  Operand<const float, 4> initial;  // [columns, D, P, 2]
  Operand<float, 4> final_state;
  uint4* kept;  // [D, tiles of columns, steps, kKeptTensors, kKeptWords]
};

struct BatchedForwardShared {
  ForwardMatrices matrices[kSide];
  IncomingRows incoming[2][3];
  ChannelTile keys, values, gates;
};

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

/// What the forward walk leaves: y, y and what the adjoint walk needs, or the final states alone.
enum class Leaves { output, tape, states };

/// y = gate ⊙ diagonal(v ⊙ shift(k)), states in and out.
template <Leaves What>
__global__ void __launch_bounds__(kMixerThreads, 1)
    batched_h3_forward(const BatchedForward launch) {
  constexpr bool Keep = What == Leaves::tape, Output = What != Leaves::states;
  extern __shared__ uint4 bytes[];
  auto& shared = *reinterpret_cast<BatchedForwardShared*>(bytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int channel = blockIdx.x * kSide + warp;
  const Columns columns = launch.columns;
  const int steps = columns.steps();
  const auto fetch = [&](int step) {
    if (step < steps) {
      IncomingRows* const to = shared.incoming[step % 2];
      fetch_step(to[0], launch.k, columns, step);
      fetch_step(to[1], launch.v, columns, step);
      if constexpr (Output) fetch_step(to[2], launch.gate, columns, step);
    }
    commit_copies();
  };
  stage(reinterpret_cast<uint4*>(shared.matrices), launch.matrices + blockIdx.x * kSide,
        sizeof(shared.matrices));
  unsigned before[8] = {};
  if (columns.segments > 1) {
    fetch_step(shared.incoming[0][0], launch.k, columns, -1);
    wait_for_copies();
    __syncwarp();
    shared.keys.scatter(shared.incoming[0][0]);
    __syncthreads();
    shared.keys.read_operands(before);
    __syncthreads();
  }
  fetch(0);
  fetch(1);
  const ForwardMatrices& mine = shared.matrices[warp];
  uint4* kept = launch.kept + (static_cast<Index>(channel) * gridDim.y + blockIdx.y) * steps *
                                  kKeptTensors * kKeptWords;
  float state[kModeTiles][4];
  read_states(state, launch.initial, channel, columns.count(), launch.modes);

  for (int step = 0; step < steps; ++step) {
    wait_for_all_but_last_copies();
    __syncwarp();
    shared.keys.scatter(shared.incoming[step % 2][0]);
    shared.values.scatter(shared.incoming[step % 2][1]);
    if constexpr (Output) shared.gates.scatter(shared.incoming[step % 2][2]);
    __syncwarp();
    fetch(step + 2);
    __syncthreads();

    float sum[kStepBlocks][4] = {};
    {
      unsigned here[8];
      shared.keys.read_operands(here);
      shift_step(sum, mine.taps, before, here);
#pragma unroll
      for (int j = 0; j < 8; ++j) before[j] = here[j];
    }
    if (step == 0 && launch.history != nullptr) {
#pragma unroll
      for (int i = 0; i < kStepBlocks; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int column = blockIdx.y * kSide + 2 * q + c % 2;
          if (column < columns.count() && columns.segment(column) == 0)
            sum[i][c] += launch.history[(static_cast<Index>(channel) * columns.sequences +
                                         columns.sequence(column)) *
                                            kMixerTaps +
                                        kBlock * i + 8 * (c / 2) + g];
        }
    }
    unsigned words[8], operands[8];  // of v ⊙ shift(k)
    {
      unsigned values[8];
      [[maybe_unused]] unsigned shifted[8];
      shared.values.read_words(values);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float(&x)[4] = sum[j / 2];
        const int c = 2 * (j % 2);
        if constexpr (Keep) shifted[j] = pack_bf16(x[c], x[c + 1]);
        words[j] = pack_bf16(x[c] * low_of(values[j]), x[c + 1] * high_of(values[j]));
        operands[j] = transpose_tile(words[j]);
      }
      if constexpr (Keep) {
        unsigned states[8];
#pragma unroll
        for (int j = 0; j < 8; ++j)
          states[j] = pack_bf16(state[j / 2][2 * (j % 2)], state[j / 2][2 * (j % 2) + 1]);
        keep_words(kept + kKeptInputs * kKeptWords, words);
        keep_words(kept + kKeptShifted * kKeptWords, shifted);
        keep_words(kept + kKeptStates * kKeptWords, states);
        kept += kKeptTensors * kKeptWords;
      }
    }

    if constexpr (Output) {
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
        if constexpr (Output)
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

    if constexpr (Output) {
      shared.gates.read_words(words);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float(&x)[4] = sum[j / 2];
        const int c = 2 * (j % 2);
        shared.gates.write_word(j,
                                pack_bf16(x[c] * low_of(words[j]), x[c + 1] * high_of(words[j])));
      }
      __syncthreads();
      shared.gates.gather(launch.y, columns, step);
    } else {
      __syncthreads();
    }
  }
  write_states(launch.final_state, state, channel, columns.count(), launch.modes);
}

}  // namespace ssm::cuda::device
