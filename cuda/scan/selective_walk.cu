// SPDX-License-Identifier: Apache-2.0
#include "scan/selective_half_walk.cuh"
#include "scan/selective_walk.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda {
namespace device {
namespace {

/// Positions that are in shared memory at a time.
template <int S>
inline constexpr int kRows = S <= 8 ? 32 : 16;

template <class T, int S, WalkFor Purpose>
__global__ __launch_bounds__(kWalkThreads) void selective_walk(
    const __grid_constant__ SelectiveWalk<T> walk, Index groups, WholeReads whole) {
  constexpr bool outputs = Purpose == WalkFor::outputs;
  constexpr bool backwards = Purpose == WalkFor::adjoints;
  constexpr bool gated = outputs || backwards;
  constexpr int rows = kRows<S>;
  constexpr int rounds = rows / 8;
  // Of two tiles: some warps are a tile ahead.
  __shared__ float2 steps_of[2][rows][kWalkChannels];  // Δ, and what B is multiplied by
  __shared__ float2 ends_of[2][outputs ? rows : 1][kWalkChannels];  // skip·u, silu(gate)
  __shared__ float4 Bs_of[2][rows][S], Cs_of[2][outputs ? rows : 1][S];
  const auto& a = walk.a;
  const WalkThread me;
  const Index group = blockIdx.x % groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / groups);
  const Index b = chunk.s.batch;
  const Index d = group * kWalkChannels + me.channel;
  const Index first = me.quarter * S;
  const bool exists = d < a.channels;
  if (!chunk.exists) return;

  float rate[S], state[S], steps_so_far = 0;
  enter_walk<Purpose>(walk, chunk, d, first, rate, state);

  // A thread brings two channels of every eighth position, and a quarter of a row of B and of C.
  const int pair = me.id % 16 * 2, row = me.id / 16;
  const Index pair_d = group * kWalkChannels + pair;
  const RawReader<T, 2> read_u(backwards ? walk.dy : a.u, b, pair_d, a.channels, whole.channels);
  const RawReader<T, 2> read_dt(a.dt, b, pair_d, a.channels, whole.channels);
  const RawReader<T, 2> read_gate(a.gate, b, pair_d, a.channels, whole.channels);
  const int states_row = me.id / 4, states_first = me.id % 4 * S;
  const RawReader<T, S> read_B(backwards ? a.C : a.B, b, states_first, a.states, whole.states);
  const RawReader<T, S> read_C(a.C, b, states_first, a.states, whole.states);
  RawNumbers<T, 2> u[rounds], dt[rounds], gate[rounds];
  RawNumbers<T, S> B, C;
  float bias[2] = {0, 0}, skip[2] = {0, 0};
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    if (pair_d + v >= a.channels) continue;
    bias[v] = value_or(0.0f, a.dt_bias, pair_d + v);
    skip[v] = value_or(0.0f, a.skip, pair_d + v);
  }
  const auto load = [&](Index t0, int count) {
    read_u.read(t0, row, count, u);
    read_dt.read(t0, row, count, dt);
    if (gated) read_gate.read(t0, row, count, gate);
    B = read_B(t0 + states_row, states_row < count);
    if (outputs) C = read_C(t0 + states_row, states_row < count);
  };
  // Without branches, so that the channels' chains of operations overlap.
  const auto step_of = [&](float raw, bool is_position) {
    const float soft = quick_softplus(raw);
    const float step = a.dt_softplus ? soft : raw;
    return is_position ? step : 0.0f;
  };
  const bool has_gate = static_cast<bool>(a.gate);
  const auto silu_of = [&](float x) {
    const float silu = x * quick_sigmoid(x);
    return has_gate ? silu : 1.0f;
  };

  T* const y = outputs && exists ? &walk.y(b, Index{0}, d) : nullptr;
  const Index y_row = walk.y.strides[1];
  const Index tiles = (chunk.end - chunk.begin + rows - 1) / rows;
  const auto begin_of = [&](Index i) {
    return chunk.begin + (backwards ? tiles - 1 - i : i) * rows;
  };
  const auto count_of = [&](Index t0) {
    return static_cast<int>(chunk.end - t0 < rows ? chunk.end - t0 : rows);
  };
  if (tiles > 0) load(begin_of(0), count_of(begin_of(0)));
  for (Index i = 0; i < tiles; ++i) {
    const Index t0 = begin_of(i);
    const int count = count_of(t0);
    auto& steps = steps_of[i % 2];
    auto& ends = ends_of[i % 2];
    auto& Bs = Bs_of[i % 2];
    auto& Cs = Cs_of[i % 2];
#pragma unroll
    for (int n = 0; n < rounds; ++n) {
      const int t = row + 8 * n;
      const float u0 = u[n][0], u1 = u[n][1];
      const float dt0 = step_of(dt[n][0] + bias[0], t < count);
      const float dt1 = step_of(dt[n][1] + bias[1], t < count);
      float2 factors{dt0, dt1};
      if constexpr (gated) {
        const float2 gains{silu_of(gate[n][0]), silu_of(gate[n][1])};
        if constexpr (backwards)
          factors = gains;
        else
          *reinterpret_cast<float4*>(&ends[t][pair]) = {skip[0] * u0, gains.x, skip[1] * u1,
                                                        gains.y};
      }
      *reinterpret_cast<float4*>(&steps[t][pair]) = {dt0, factors.x * u0, dt1, factors.y * u1};
      if (outputs && walk.dt_used && t < count) {
        if (pair_d < a.channels) walk.dt_used(b, t0 + t, pair_d) = narrowed<T>(dt0);
        if (pair_d + 1 < a.channels) walk.dt_used(b, t0 + t, pair_d + 1) = narrowed<T>(dt1);
      }
    }
    if (states_row < rows) {
      write_states(&Bs[states_row][states_first / 4], B);
      if constexpr (outputs) write_states(&Cs[states_row][states_first / 4], C);
    }
    __syncthreads();
    if (i + 1 < tiles) load(begin_of(i + 1), count_of(begin_of(i + 1)));
    if constexpr (backwards) {
#pragma unroll 4
      for (int t = count - 1; t >= 0; --t) {
        const float2 step = steps[t][me.channel];
        float Cv[S];
        load_floats(&Bs[t][first / 4], Cv);
#pragma unroll
        for (int j = 0; j < S; ++j)
          state[j] = quick_exp2(step.x * rate[j]) * fmaf(step.y, Cv[j], state[j]);
      }
    } else {
#pragma unroll 2
      for (int t = 0; t < count; t += 4) {
        if constexpr (Purpose == WalkFor::kept) {
          constexpr int keep = static_cast<int>(walk_keep(4 * S));
          if (t % keep == 0)
            store_floats(reinterpret_cast<float4*>(kept_place<float, S>(
                             walk.kept, a.chunking.length, chunk.place,
                             i * (rows / keep) + t / keep, groups, group, me.id)),
                         state);
        }
        float sums[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float2 step = steps[t + k][me.channel];
          float Bv[S], Cv[S];
          load_floats(&Bs[t + k][first / 4], Bv);
          if constexpr (outputs) load_floats(&Cs[t + k][first / 4], Cv);
          if (Purpose == WalkFor::ends) steps_so_far += step.x;
          sums[k] = 0;
#pragma unroll
          for (int j = 0; j < S; ++j) {
            state[j] = fmaf(quick_exp2(step.x * rate[j]), state[j], step.y * Bv[j]);
            if constexpr (outputs) sums[k] = fmaf(state[j], Cv[j], sums[k]);
          }
        }
        if constexpr (outputs) {
          const float sum = sum_of_quarters(sums, me.quarter);
          const float2 end = ends[t + me.quarter][me.channel];
          if (exists && t + me.quarter < count)
            y[(t0 + t + me.quarter) * y_row] = narrowed<T>((sum + end.x) * end.y);
        }
      }
    }
  }
  leave_walk<Purpose>(walk, chunk, d, me, state, steps_so_far);
}

template <class T, int S>
void launch_walk(const SelectiveWalk<T>& walk, WalkFor purpose, Stream stream,
                 const char* operation) {
  const auto& a = walk.a;
  const Index groups = (a.channels + kWalkChannels - 1) / kWalkChannels;
  const Index blocks = a.chunking.places * groups;
  if (blocks == 0) return;
  WholeReads whole = whole_reads<S>(a);
  whole.channels = whole.channels && has_raw_numbers<2>(walk.dy, a.channels);
  const auto launch_kernel = [&](auto kernel, int threads, std::size_t shared) {
    launch(kernel, dim3(static_cast<unsigned>(blocks)), threads, shared, stream, operation, walk,
           groups, whole);
  };
  if constexpr (sizeof(T) == 2) {
    if (purpose != WalkFor::adjoints) {
      whole.channels = has_raw_numbers<8>(a.u, a.channels) &&
                       has_raw_numbers<8>(a.dt, a.channels) &&
                       has_raw_numbers<8>(a.gate, a.channels);
      launch_kernel(purpose == WalkFor::outputs ? selective_half_walk<T, S, WalkFor::outputs>
                    : purpose == WalkFor::ends  ? selective_half_walk<T, S, WalkFor::ends>
                                                : selective_half_walk<T, S, WalkFor::kept>,
                    kHalfWalkThreads, sizeof(HalfWalkShared<T, S>));
      return;
    }
    launch_kernel(selective_walk<T, S, WalkFor::adjoints>, kWalkThreads, 0);
  } else {
    launch_kernel(purpose == WalkFor::outputs    ? selective_walk<T, S, WalkFor::outputs>
                  : purpose == WalkFor::ends     ? selective_walk<T, S, WalkFor::ends>
                  : purpose == WalkFor::adjoints ? selective_walk<T, S, WalkFor::adjoints>
                                                 : selective_walk<T, S, WalkFor::kept>,
                  kWalkThreads, 0);
  }
}

}  // namespace

template <class T>
void walk_selective_scan(const SelectiveWalk<T>& walk, WalkFor purpose, Stream stream,
                         const char* operation) {
  if (walk.a.states <= 16)
    launch_walk<T, 4>(walk, purpose, stream, operation);
  else if (walk.a.states <= 32)
    launch_walk<T, 8>(walk, purpose, stream, operation);
  else
    launch_walk<T, 16>(walk, purpose, stream, operation);
}

#define SSM_INSTANTIATE(T) \
  template void walk_selective_scan<T>(const SelectiveWalk<T>&, WalkFor, Stream, const char*);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace device

bool has_selective_walk() { return true; }

}  // namespace ssm::cuda
