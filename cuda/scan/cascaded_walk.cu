// SPDX-License-Identifier: Apache-2.0
#include "scan/cascaded_walk.cuh"
#include "scan/selective_channel_sums.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda::device {
namespace {

constexpr int kStates = 4;  // of a lane
constexpr int kWalkTile = static_cast<int>(kCascadedWalkTile);
constexpr int kRun = 4;                     // positions whose states are in registers
constexpr int kRowsAtOnce = 2 * kWalkTile;  // of the walk forwards
constexpr int kAllStates = static_cast<int>(kCascadedWalkStates);
static_assert(kAllStates == 4 * kStates && kWalkTile == 2 * kRun);

/// Operands of a tile of positions in shared memory, zeros where there are none.
template <class T, int M, int Rows>
struct CascadedTileOf {
  static_assert(M <= 2);

  static constexpr int rounds = Rows / 4, map_rounds = Rows * kAllStates / kWalkThreads;

  /// What a thread brings: a channel of every fourth position, states of some.
  struct Numbers {
    T step[rounds][M], u[rounds][M], own_step[rounds], gate[rounds], dy[rounds];
    T B[map_rounds][M], C[map_rounds];
  };
  /// Reads those of the `count` positions from t0 on. Nothing is written meanwhile, so that all
  /// are under way at once.
  __device__ static Numbers read(int thread, const CascadedOperands<T, M>& a,
                                 const Operand<const T, 3>& dy, Index b, Index group, Index t0,
                                 int count) {
    Numbers numbers{};
    const Index d = group * kWalkChannels + thread % static_cast<int>(kWalkChannels);
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      const int t = thread / static_cast<int>(kWalkChannels) + 4 * r;
      if (t >= count || d >= a.channels) continue;
      const auto number = [&](const Operand<const T, 3>& x) { return x ? x(b, t0 + t, d) : T{}; };
#pragma unroll
      for (int i = 0; i < M; ++i)
        if (i < a.count)
          numbers.step[r][i] = number(a.sources[i].dt), numbers.u[r][i] = number(a.sources[i].u);
      numbers.own_step[r] = number(a.dt);
      numbers.gate[r] = number(a.gate);
      numbers.dy[r] = number(dy);
    }
#pragma unroll
    for (int r = 0; r < map_rounds; ++r) {
      const int t = (thread + r * kWalkThreads) / kAllStates, n = thread % kAllStates;
      if (t >= count || n >= a.states) continue;
#pragma unroll
      for (int i = 0; i < M; ++i)
        if (i < a.count) numbers.B[r][i] = a.sources[i].B(b, t0 + t, n);
      numbers.C[r] = a.C(b, t0 + t, n);
    }
    return numbers;
  }
  __device__ void write(int thread, const Numbers& numbers) {
    const auto both = [](const T(&of)[M]) {
      return float2{widened(of[0]), M > 1 ? widened(of[M - 1]) : 0.0f};
    };
    const int c = thread % static_cast<int>(kWalkChannels);
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      const int t = thread / static_cast<int>(kWalkChannels) + 4 * r;
      const float2 step = both(numbers.step[r]), u = both(numbers.u[r]);
      steps[t][c] = {step.x, step.y, widened(numbers.own_step[r]), widened(numbers.gate[r])};
      inputs[t][c] = {step.x * u.x, step.y * u.y, widened(numbers.dy[r]), 0};
      us[t][c] = u;
    }
#pragma unroll
    for (int r = 0; r < map_rounds; ++r) {
      const float2 B = both(numbers.B[r]);
      maps[(thread + r * kWalkThreads) / kAllStates][thread % kAllStates] = {
          B.x, B.y, widened(numbers.C[r]), 0};
    }
  }

  float4 steps[Rows][kWalkChannels];   // Δ of two sources, own Δ, gate
  float4 inputs[Rows][kWalkChannels];  // Δ·u of two sources, dy
  float4 maps[Rows][kAllStates];       // B of two sources, C
  float2 us[Rows][kWalkChannels];      // u of two sources
};

__device__ inline float element(const float4& four, int i) {
  return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

/// All scans of a state by one position; operands as in a tile, rates per ln 2.
template <int M>
__device__ void advance_cascade(const float4& step, const float4& input, const float4& map,
                                const float (&rate)[M + 1], float (&decay)[M + 1],
                                const float (&before)[M + 1], float (&after)[M + 1]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < M; ++i) {
    decay[i] = quick_exp2(element(step, i) * rate[i]);
    after[i] = fmaf(decay[i], before[i], element(input, i) * element(map, i));
    sum += after[i];
  }
  decay[M] = quick_exp2(step.z * rate[M]);
  after[M] = fmaf(decay[M], before[M], step.w * sum);
}

/// The rates of a thread's states, per ln 2.
template <class T, int M>
__device__ void load_cascade_rates(const CascadedOperands<T, M>& a, Index d, int first,
                                   float (&rate)[kStates][M + 1]) {
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
#pragma unroll
    for (int i = 0; i <= M; ++i) rate[j][i] = 0;
    if (d >= a.channels || first + j >= a.states) continue;
    a.load_rates(first + j, d, rate[j]);
#pragma unroll
    for (int i = 0; i <= M; ++i) rate[j][i] *= 1.4426950408889634f;
  }
}
/// Calls visit(number of [places, m + 1, N, D], element of the thread's numbers) for what exists.
template <class T, int M, class F>
__device__ void for_each_entry(const CascadedOperands<T, M>& a, Index place, Index d, int first,
                               F visit) {
#pragma unroll
  for (int j = 0; j < kStates; ++j)
#pragma unroll
    for (int i = 0; i <= M; ++i)
      if (d < a.channels && first + j < a.states && a.has(i))
        visit(a.at(place, i, first + j, d), j, i);
}

/// Where a thread keeps its states of scan i at a tile of a chunk.
template <int M>
__device__ Index kept_at(Index tiles, Index place, Index tile, Index groups, Index group, int i,
                         int thread) {
  return (((place * tiles + tile) * groups + group) * (M + 1) + i) * kWalkThreads + thread;
}

template <class T, int M, bool Keeps>
__global__ __launch_bounds__(kWalkThreads) void cascaded_walk(
    const __grid_constant__ CascadedWalk<T, M> walk) {
  __shared__ CascadedTileOf<T, M, kRowsAtOnce> tile;
  const auto& a = walk.a;
  const WalkThread me;
  const Index group = blockIdx.x % walk.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / walk.groups);
  const Index b = chunk.s.batch, d = group * kWalkChannels + me.channel;
  const Index tiles = (a.chunking.length + kWalkTile - 1) / kWalkTile;
  const int first = me.quarter * kStates;
  if (!chunk.exists) return;

  float rate[kStates][M + 1], state[kStates][M + 1] = {};
  load_cascade_rates(a, d, first, rate);
  for_each_entry(a, chunk.place, d, first,
                 [&](Index at, int j, int i) { state[j][i] = walk.entries[at]; });
  using Tile = CascadedTileOf<T, M, kRowsAtOnce>;
  const auto count_of = [&](Index t0) {
    return static_cast<int>(chunk.end - t0 < kRowsAtOnce ? chunk.end - t0 : kRowsAtOnce);
  };
  const auto read = [&](Index t0) { return Tile::read(me.id, a, {}, b, group, t0, count_of(t0)); };
  auto numbers = read(chunk.begin);
  for (Index t0 = chunk.begin; t0 < chunk.end; t0 += kRowsAtOnce) {
    const int count = count_of(t0);
    __syncthreads();
    tile.write(me.id, numbers);
    __syncthreads();
    if (t0 + kRowsAtOnce < chunk.end) numbers = read(t0 + kRowsAtOnce);
#pragma unroll 2
    for (int t = 0; t < count; t += 4) {
      if constexpr (Keeps)
        if (t % kWalkTile == 0) {
#pragma unroll
          for (int i = 0; i <= M; ++i)
            reinterpret_cast<float4*>(
                walk.kept)[kept_at<M>(tiles, chunk.place, (t0 - chunk.begin + t) / kWalkTile,
                                      walk.groups, group, i, me.id)] = {state[0][i], state[1][i],
                                                                        state[2][i], state[3][i]};
        }
      float sums[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float4 step = tile.steps[t + k][me.channel], input = tile.inputs[t + k][me.channel];
        sums[k] = 0;
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          const float4 map = tile.maps[t + k][first + j];
          float decay[M + 1], after[M + 1];
          advance_cascade<M>(step, input, map, rate[j], decay, state[j], after);
#pragma unroll
          for (int i = 0; i <= M; ++i) state[j][i] = after[i];
          sums[k] = fmaf(map.z, after[M], sums[k]);
        }
      }
      if constexpr (!Keeps) {
        const float sum = sum_of_quarters(sums, me.quarter);
        if (d < a.channels && t + me.quarter < count)
          walk.y(b, t0 + t + me.quarter, d) = narrowed<T>(sum);
      }
    }
  }
  if constexpr (!Keeps)
    for_each_entry(a, chunk.place, d, first,
                   [&](Index at, int j, int i) { walk.entries[at] = state[j][i]; });
}

template <class T, int M>
__global__ __launch_bounds__(kWalkThreads, M == 1 ? 4 : 3) void cascaded_walk_back(
    const __grid_constant__ CascadedWalkBack<T, M> walk) {
  constexpr int tile_rows = kWalkTile;
  using Tile = CascadedTileOf<T, M, tile_rows>;
  __shared__ Tile tile;
  __shared__ float sums[tile_rows][kWalkThreads / 32][M + 1][kAllStates];
  __shared__ float unit[8][8];
  const auto& a = walk.a;
  const WalkThread me;
  const Index group = blockIdx.x % walk.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / walk.groups);
  const Index b = chunk.s.batch, d = group * kWalkChannels + me.channel;
  const Index all_tiles = (a.chunking.length + tile_rows - 1) / tile_rows;
  const int first = me.quarter * kStates;
  if (me.id < 64) unit[me.id / 8][me.id % 8] = me.id / 8 == me.id % 8 ? 1.0f : 0.0f;

  float rate[kStates][M + 1], adjoint[kStates][M + 1] = {}, dA[kStates][M + 1] = {};
  load_cascade_rates(a, d, first, rate);
  for_each_entry(a, chunk.place, d, first,
                 [&](Index at, int j, int i) { adjoint[j][i] = walk.adjoints[at]; });
  for (Index i_tile = (chunk.end - chunk.begin + tile_rows - 1) / tile_rows; i_tile-- > 0;) {
    const Index t0 = chunk.begin + i_tile * tile_rows;
    const int count = static_cast<int>(chunk.end - t0 < tile_rows ? chunk.end - t0 : tile_rows);
    float entering[M + 1][kStates];
#pragma unroll
    for (int i = 0; i <= M; ++i)
      load_floats(
          &reinterpret_cast<const float4*>(
              walk.kept)[kept_at<M>(all_tiles, chunk.place, i_tile, walk.groups, group, i, me.id)],
          entering[i]);
    tile.write(me.id, Tile::read(me.id, a, walk.dy, b, group, t0, count));
    __syncthreads();

    float middle[M + 1][kStates];  // the states in the middle of the tile
    {
      float state[kStates][M + 1];
#pragma unroll
      for (int j = 0; j < kStates; ++j)
#pragma unroll
        for (int i = 0; i <= M; ++i) state[j][i] = entering[i][j];
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        const float4 step = tile.steps[k][me.channel], input = tile.inputs[k][me.channel];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          float decay[M + 1], after[M + 1];
          advance_cascade<M>(step, input, tile.maps[k][first + j], rate[j], decay, state[j], after);
#pragma unroll
          for (int i = 0; i <= M; ++i) state[j][i] = after[i];
        }
      }
#pragma unroll
      for (int j = 0; j < kStates; ++j)
#pragma unroll
        for (int i = 0; i <= M; ++i) middle[i][j] = state[j][i];
    }
#pragma unroll 1
    for (int begin = tile_rows - kRun; begin >= 0; begin -= kRun) {
      // What is added to gradients of sources, read before it is needed.
      const int own_k = begin + me.quarter;
      const Index own_t = t0 + own_k;
      const bool exists = d < a.channels && own_k < count;
      T more_u[M], more_step[M];
#pragma unroll
      for (int i = 0; i < M; ++i) {
        const auto& to = walk.gradients[i];
        more_u[i] = exists && to.u ? to.u(b, own_t, d) : T{};
        more_step[i] = exists && to.dt ? to.dt(b, own_t, d) : T{};
      }
      float4 steps[kRun], inputs[kRun];
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        steps[k] = tile.steps[begin + k][me.channel];
        inputs[k] = tile.inputs[begin + k][me.channel];
      }
      // Sums over the lane's states at the positions of the run.
      float dinput[M][kRun] = {}, dstep[M + 1][kRun] = {}, dgate[kRun] = {};
      ChannelSums<T> channels[M + 1];
#pragma unroll
      for (int pair = 0; pair < kStates; pair += 2) {
        float values[M + 1][2 * kRun];
#pragma unroll
        for (int j = pair; j < pair + 2; ++j) {
          float decay[kRun][M + 1], state[kRun + 1][M + 1];
#pragma unroll
          for (int i = 0; i <= M; ++i) state[0][i] = begin > 0 ? middle[i][j] : entering[i][j];
#pragma unroll
          for (int k = 0; k < kRun; ++k)
            advance_cascade<M>(steps[k], inputs[k], tile.maps[begin + k][first + j], rate[j],
                               decay[k], state[k], state[k + 1]);
#pragma unroll
          for (int k = kRun - 1; k >= 0; --k) {
            const float4 step = steps[k], input = inputs[k];
            const float4 map = tile.maps[begin + k][first + j];
            const int at = (j - pair) * kRun + k;
            const float lambda = fmaf(map.z, input.z, adjoint[j][M]);
            const float gated = step.w * lambda;
            values[M][at] = input.z * state[k + 1][M];
            float sum = 0;
#pragma unroll
            for (int i = 0; i <= M; ++i) {
              float mu = lambda;
              if (i < M) {
                const int source = i < M ? i : 0;
                mu = adjoint[j][i] + gated;
                values[i][at] = mu * element(input, i);
                dinput[source][k] = fmaf(mu, element(map, i), dinput[source][k]);
                sum += state[k + 1][i];
              }
              adjoint[j][i] = mu * decay[k][i];
              const float decayed = adjoint[j][i] * state[k][i];
              dA[j][i] = fmaf(i < M ? element(step, i) : step.z, decayed, dA[j][i]);
              dstep[i][k] = fmaf(rate[j][i], decayed, dstep[i][k]);
            }
            dgate[k] = fmaf(lambda, sum, dgate[k]);
          }
        }
#pragma unroll
        for (int i = 0; i <= M; ++i)
          channels[i].take(pair / 2, me.lane, values[i], unit[me.lane / 4]);
      }
#pragma unroll
      for (int i = 0; i <= M; ++i)
        channels[i].write(me.lane, [&](int set, int number, int quarter, float sum) {
          sums[begin + number % kRun][me.warp][i][quarter * kStates + 2 * set + number / kRun] =
              sum;
        });

      constexpr float ln2 = 0.69314718055994531f;  // rates are per ln 2
      const float of_gate = sum_of_quarters(dgate, me.quarter);
      const float of_step = ln2 * sum_of_quarters(dstep[M], me.quarter);
      if (exists && walk.dgate) walk.dgate(b, own_t, d) = narrowed<T>(of_gate);
      if (exists && walk.ddt) walk.ddt(b, own_t, d) = narrowed<T>(of_step);
#pragma unroll
      for (int i = 0; i < M; ++i) {
        const float input = sum_of_quarters(dinput[i], me.quarter);
        const float source_step = ln2 * sum_of_quarters(dstep[i], me.quarter);
        if (!exists) continue;
        const auto& to = walk.gradients[i];
        const float2 us = tile.us[own_k][me.channel];
        const float step = element(tile.steps[own_k][me.channel], i);
        if (to.u) to.u(b, own_t, d) = narrowed<T>(fmaf(input, step, widened(more_u[i])));
        if (to.dt)
          to.dt(b, own_t, d) =
              narrowed<T>(widened(more_step[i]) + fmaf(input, i == 0 ? us.x : us.y, source_step));
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int r = 0; r < tile_rows * (M + 1) * kAllStates / kWalkThreads; ++r) {
      const int at = me.id + r * kWalkThreads;
      const int k = at / ((M + 1) * kAllStates), i = at / kAllStates % (M + 1);
      const int n = at % kAllStates;
      if (k >= count || n >= a.states || !a.has(i)) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWalkThreads / 32; ++w) sum += sums[k][w][i][n];
      const Index scan = i == M ? a.count : i;
      walk.shared[((scan * walk.groups + group) * walk.positions + b * a.chunking.packing.length +
                   t0 + k) *
                      a.states +
                  n] = sum;
    }
  }
  for_each_entry(a, chunk.place, d, first, [&](Index at, int j, int i) {
    walk.adjoints[at] = adjoint[j][i];
    walk.dA[at] = dA[j][i];
  });
}

}  // namespace

template <class T, int M>
void walk_cascaded_scan(const CascadedWalk<T, M>& walk, Stream stream, const char* operation) {
  const Index blocks = walk.a.chunking.places * walk.groups;
  if (blocks == 0) return;
  launch(walk.kept != nullptr ? cascaded_walk<T, M, true> : cascaded_walk<T, M, false>,
         dim3(static_cast<unsigned>(blocks)), kWalkThreads, 0, stream, operation, walk);
}
template <class T, int M>
void walk_cascaded_scan_back(const CascadedWalkBack<T, M>& walk, Stream stream,
                             const char* operation) {
  const Index blocks = walk.a.chunking.places * walk.groups;
  if (blocks == 0) return;
  launch(cascaded_walk_back<T, M>, dim3(static_cast<unsigned>(blocks)), kWalkThreads, 0, stream,
         operation, walk);
}

#define SSM_INSTANTIATE(T, M)                                                             \
  template void walk_cascaded_scan<T, M>(const CascadedWalk<T, M>&, Stream, const char*); \
  template void walk_cascaded_scan_back<T, M>(const CascadedWalkBack<T, M>&, Stream, const char*);
SSM_INSTANTIATE(float, 1)
SSM_INSTANTIATE(float, 2)
SSM_INSTANTIATE(BFloat16, 1)
SSM_INSTANTIATE(BFloat16, 2)
SSM_INSTANTIATE(Float16, 1)
SSM_INSTANTIATE(Float16, 2)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
