// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/tensor_core.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda::device {

/// ln(1 + e^x) without a logarithm, right to 2e-6.
__device__ inline float polynomial_softplus(float x) {
  const float e = quick_exp(-fabsf(x));
  float p = 0.01458831f;
  p = fmaf(p, e, -0.06785118f);
  p = fmaf(p, e, 0.15102766f);
  p = fmaf(p, e, -0.23611343f);
  p = fmaf(p, e, 0.33140427f);
  p = fmaf(p, e, -0.49990746f);
  p = fmaf(p, e, 1.0f);
  return fmaf(p, e, fmaxf(x, 0.0f));
}

/// 2^(step·rate) on the pipes of multiplications, for the share of exponentials that
/// special-function units would be late with; right to 4e-6, and to the last bits near 1. `bound`
/// is 126 / |rate|.
__device__ inline float polynomial_decay(float step, float rate, float bound) {
  const float bounded = fminf(fmaxf(step, -bound), bound);
  const float shifted = fmaf(bounded, rate, 12582912.0f);  // rounds to a whole number
  const float rest = fmaf(bounded, rate, -(shifted - 12582912.0f));
  float p = 0.0096181f;
  p = fmaf(p, rest, 0.0555041f);
  p = fmaf(p, rest, 0.2402265f);
  p = fmaf(p, rest, 0.6931472f);
  p = fmaf(p, rest, 1.0f);
  return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

/// Threads of a block: as many that make tiles as walk along them.
constexpr int kHalfWalkThreads = 2 * kWalkThreads;

/// Which decays are polynomials: of position k and state j.
__device__ constexpr bool is_polynomial(int k, int j) { return j % 4 == 0 && k % 4 == 0; }

/// Positions in shared memory. Rows are padded so that threads meet in no bank.
template <class T, int S>
struct HalfWalkTile {
  static constexpr int rows = 32;

  alignas(16) float2 steps[rows][4][10];  // Δ, Δ·u of eight channels
  alignas(16) float2 ends[rows][4][10];   // skip·u, silu(gate)
  float4 Bs[rows][S], Cs[rows][S];
};
template <class T, int S>
struct HalfWalkShared {
  static constexpr int rows = HalfWalkTile<T, S>::rows;

  HalfWalkTile<T, S> tiles[2];                              // one is made while one is walked along
  alignas(16) T u[rows][40], dt[rows][40], gate[rows][40];  // as copied, of 32 channels
  float biases[kWalkChannels], skips[kWalkChannels];
};

/// The walk forwards of half types. The second half of a block's threads makes tiles, a thread
/// eight channels of a position; the first half walks along them.
template <class T, int S, WalkFor Purpose>
__global__ __launch_bounds__(
    kHalfWalkThreads,
    S <= 4   ? 3
    : S <= 8 ? 2
             : 1) void selective_half_walk(const __grid_constant__ SelectiveWalk<T> walk,
                                           Index groups, WholeReads whole) {
  constexpr bool outputs = Purpose == WalkFor::outputs;
  using Tile = HalfWalkTile<T, S>;
  constexpr int rows = Tile::rows;
  extern __shared__ float4 dynamic_shared[];
  auto& shared = *reinterpret_cast<HalfWalkShared<T, S>*>(dynamic_shared);
  const auto& a = walk.a;
  const WalkThread me(static_cast<int>(threadIdx.x) % kWalkThreads);
  const Index group = blockIdx.x % groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / groups);
  const Index b = chunk.s.batch;
  const Index d = group * kWalkChannels + me.channel;
  const Index first = me.quarter * S;
  const bool exists = d < a.channels;
  if (!chunk.exists) return;

  float rate[S], state[S], bound[S / 4], steps_so_far = 0;
  enter_walk<Purpose>(walk, chunk, d, first, rate, state);
#pragma unroll
  for (int j = 0; j < S; j += 4) bound[j / 4] = rate[j] == 0 ? 0.0f : 126.0f / fabsf(rate[j]);

  const int row = me.id / 4, part = me.id % 4;
  const Index part_d = group * kWalkChannels + part * 8;
  const bool has_gate = outputs && a.gate;
  if (threadIdx.x < kWalkChannels) {
    const Index of = group * kWalkChannels + me.id;
    shared.biases[me.id] = of < a.channels ? value_or(0.0f, a.dt_bias, of) : 0.0f;
    shared.skips[me.id] = of < a.channels ? value_or(0.0f, a.skip, of) : 0.0f;
  }
  const RawReader<T, S> read_B(a.B, b, part * S, a.states, whole.states);
  const RawReader<T, S> read_C(a.C, b, part * S, a.states, whole.states);
  RawNumbers<T, S> B, C;
  const auto bring = [&](Index t0, int count) {
    const auto copy = [&](T* to, const Operand<const T, 3>& x) {
      const T* const from =
          x.data + b * x.strides[0] + (t0 + row) * x.strides[1] + part_d * x.strides[2];
      if (whole.channels) {
        const bool is_there = row < count && part_d < a.channels;
        copy_async_or_zero(to, is_there ? from : x.data, is_there);
      } else {
        for (int v = 0; v < 8; ++v)
          to[v] = row < count && part_d + v < a.channels ? from[v * x.strides[2]] : T::from_bits(0);
      }
    };
    copy(&shared.u[row][part * 8], a.u);
    copy(&shared.dt[row][part * 8], a.dt);
    if (has_gate) copy(&shared.gate[row][part * 8], a.gate);
    B = read_B(t0 + row, row < count);
    if (outputs) C = read_C(t0 + row, row < count);
  };
  const int length = static_cast<int>(chunk.end - chunk.begin);
  const int tiles = (length + rows - 1) / rows;
  const auto count_of = [&](int i) { return min(length - i * rows, rows); };
  /// Tile i of what was brought; begins to bring the next.
  const auto make = [&](Tile& tile, int i) {
    using Raw = RawNumbers<T, 8>;
    wait_for_copies();
    const Index t0 = chunk.begin + i * rows;
    const int count = count_of(i);
    const Raw u = *reinterpret_cast<const Raw*>(&shared.u[row][part * 8]);
    const Raw dt = *reinterpret_cast<const Raw*>(&shared.dt[row][part * 8]);
    const Raw gate = *reinterpret_cast<const Raw*>(&shared.gate[row][part * 8]);
    write_states(&tile.Bs[row][part * (S / 4)], B);
    if constexpr (outputs) write_states(&tile.Cs[row][part * (S / 4)], C);
    if (i + 1 < tiles) bring(t0 + rows, count_of(i + 1));
    const auto put = [&](float2(&to)[10], auto pair_of) {
#pragma unroll
      for (int v = 0; v < 8; v += 2) {
        const float2 one = pair_of(v), other = pair_of(v + 1);
        *reinterpret_cast<float4*>(&to[v]) = {one.x, one.y, other.x, other.y};
      }
    };
    float bias[8], step[8];
    load_floats(reinterpret_cast<const float4*>(&shared.biases[part * 8]), bias);
#pragma unroll
    for (int v = 0; v < 8; ++v) step[v] = dt[v] + bias[v];
    if (a.dt_softplus) {
#pragma unroll
      for (int v = 0; v < 8; ++v) step[v] = polynomial_softplus(step[v]);
    }
    if (row >= count) {
#pragma unroll
      for (int v = 0; v < 8; ++v) step[v] = 0;
    }
    put(tile.steps[row][part], [&](int v) { return float2{step[v], step[v] * u[v]}; });
    if constexpr (outputs) {
      float skips[8], silu[8];
      load_floats(reinterpret_cast<const float4*>(&shared.skips[part * 8]), skips);
#pragma unroll
      for (int v = 0; v < 8; ++v) silu[v] = 1;
      if (has_gate) {
#pragma unroll
        for (int v = 0; v < 8; ++v) silu[v] = gate[v] * quick_sigmoid(gate[v]);
      }
      put(tile.ends[row][part], [&](int v) { return float2{skips[v] * u[v], silu[v]}; });
      if (walk.dt_used && row < count) {
#pragma unroll
        for (int v = 0; v < 8; ++v)
          if (part_d + v < a.channels) walk.dt_used(b, t0 + row, part_d + v) = narrowed<T>(step[v]);
      }
    }
  };
  __syncthreads();  // biases are there
  if (threadIdx.x >= kWalkThreads) {
    if (tiles > 0) bring(chunk.begin, count_of(0));
    for (int i = 0; i < tiles; ++i) {
      make(shared.tiles[i % 2], i);
      __syncthreads();
    }
    return;
  }

  /// To position t, which is number k of those without a branch between them.
  const auto advance = [&](const Tile& tile, int t, int k) {
    const float2 step = tile.steps[t][me.warp][me.channel % 8];
    float Bv[S];
    load_floats(&tile.Bs[t][first / 4], Bv);
    if (Purpose == WalkFor::ends) steps_so_far += step.x;
#pragma unroll
    for (int j = 0; j < S; ++j) {
      const float decay = is_polynomial(k, j) ? polynomial_decay(step.x, rate[j], bound[j / 4])
                                              : quick_exp2(step.x * rate[j]);
      state[j] = fmaf(decay, state[j], step.y * Bv[j]);
    }
  };

  const bool writes = outputs && exists;
  T* y = writes ? &walk.y(b, chunk.begin + me.quarter, d) : nullptr;  // every fourth position
  const Index y_step = 4 * walk.y.strides[1];
  constexpr int keep = static_cast<int>(walk_keep(4 * S));
  float4* kept = Purpose == WalkFor::kept
                     ? reinterpret_cast<float4*>(kept_place<float, S>(
                           walk.kept, a.chunking.length, chunk.place, 0, groups, group, me.id))
                     : nullptr;
  for (int i = 0; i < tiles; ++i) {
    auto& tile = shared.tiles[i % 2];
    const int count = count_of(i);
    __syncthreads();
    if constexpr (outputs) {
      constexpr int run = S <= 8 ? 16 : 8;
#pragma unroll 1
      for (int t = 0; t < count; t += run) {
#pragma unroll
        for (int four = 0; four < run; four += 4) {
          float sums[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            advance(tile, t + four + k, four + k);
            float Cv[S];
            load_floats(&tile.Cs[t + four + k][first / 4], Cv);
            sums[k] = 0;
#pragma unroll
            for (int j = 0; j < S; ++j) sums[k] = fmaf(state[j], Cv[j], sums[k]);
          }
          const int at = t + four + me.quarter;
          const float sum = sum_of_quarters(sums, me.quarter);
          const float2 end = tile.ends[at][me.warp][me.channel % 8];
          const float out = (sum + end.x) * end.y;
          if (writes && at < count) *y = narrowed<T>(out);
          y += y_step;
        }
      }
    } else {
#pragma unroll 1
      for (int t = 0; t < count; t += 8) {
        if (Purpose == WalkFor::kept && t % keep == 0) {
          store_floats(kept, state);
          kept += groups * (kWalkThreads * S / 4);
        }
#pragma unroll
        for (int k = 0; k < 8; ++k) advance(tile, t + k, k);
      }
    }
  }
  leave_walk<Purpose>(walk, chunk, d, me, state, steps_so_far);
}

}  // namespace ssm::cuda::device
