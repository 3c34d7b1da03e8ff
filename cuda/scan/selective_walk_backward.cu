// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "scan/selective_walk.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda::device {
namespace {

/// Sums over the eight channels of a warp, of eight numbers at a time for each of its four
/// quarters: of half types by tensor cores, which read 11 bits of a float. A row of the product is
/// a quarter and half of its channels, a column is a number; what is added are the numbers of four
/// lanes.
template <class T>
class ChannelSums {
 public:
  /// Adds up the eight numbers of set 0 or 1.
  __device__ void take(int set, int lane, const float (&values)[8]) {
    if constexpr (sizeof(T) == 4) {
      float rest[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) rest[i] = values[i];
#pragma unroll
      for (int half = 4, bit = 1; half > 0; half /= 2, bit *= 2) {
        const bool upper = (lane & bit) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
          const float given = upper ? rest[i] : rest[i + half];
          const float kept = upper ? rest[i + half] : rest[i];
          rest[i] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
        }
      }
      sums_[set] = rest[0];
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = 4 * set + 2 * i;
        multiply(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3],
                 one_in(column, lane), one_in(column + 1, lane));
      }
    }
  }
  /// Calls write(set, number, quarter, sum) for what this lane has; each is in one lane.
  template <class F>
  __device__ void write(int lane, F write) const {
    if constexpr (sizeof(T) == 4) {
      const int number = (lane & 1) * 4 + (lane & 2) + (lane & 4) / 4;
#pragma unroll
      for (int set = 0; set < 2; ++set) write(set, number, lane / 8, sums_[set]);
    } else {
      // Column 4·set + 2·i + r holds numbers 4·i + 2·r of rows 0 … 7, 4·i + 2·r + 1 below.
      const bool lower = (lane & 4) != 0;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float given = lower ? sums_[r] : sums_[2 + r];
        const float kept = lower ? sums_[2 + r] : sums_[r];
        const float total = kept + __shfl_xor_sync(0xffffffffu, given, 4);
        write(lane % 4 / 2, lane % 2 * 4 + 2 * r + (lower ? 1 : 0), lane / 8, total);
      }
    }
  }

 private:
  __device__ static unsigned one_in(int column, int lane) {
    return lane / 4 == column ? 0x3f800000u : 0u;
  }
  __device__ static unsigned narrow(float value) {
    if constexpr (std::is_same_v<T, Float16>) {
      unsigned rounded;
      asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
      return rounded;
    }
    return __float_as_uint(value);
  }
  __device__ void multiply(float a0, float a1, float a2, float a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sums_[0]), "+f"(sums_[1]), "+f"(sums_[2]), "+f"(sums_[3])
        : "r"(narrow(a0)), "r"(narrow(a1)), "r"(narrow(a2)), "r"(narrow(a3)), "r"(b0), "r"(b1));
  }

  float sums_[4] = {};
};

/// What a block has in shared memory of a tile.
template <int S>
struct WalkBackShared {
  static constexpr int tile = static_cast<int>(walk_tile(4 * S));
  static constexpr int run = S <= 8 ? 32 / S : 4;  // positions whose states are in registers
  static constexpr int runs = tile / run;
  static constexpr int sums = 8 * S;  // of a position: gradients of B, then of C
  static constexpr int warps = kWalkThreads / 32;

  float2 steps[tile][kWalkChannels];  // Δ, Δ·u
  float2 gains[tile][kWalkChannels];  // silu(gate)·dy, u
  float2 ends[tile][kWalkChannels];   // ∂Δ/∂raw step, dy·silu'(gate)
  float4 Bs[tile][S], Cs[tile][S];
  float4 run_states[runs][S / 4][kWalkThreads];
  float shared[tile][warps][sums];
};

/// A chunk of 32 channels, tile after tile from the last. The states that enter every run of
/// positions of a tile are computed from those that enter the tile; then, run after run from the
/// last, states and decays are computed again and held in registers for the way back. Formulas as
/// SelectiveGradientRow.
template <class T, int S>
__global__ __launch_bounds__(kWalkThreads, S <= 8 ? 3 : 2) void selective_walk_back(
    const __grid_constant__ SelectiveWalkBack<T> walk, WholeReads whole) {
  constexpr int tile = static_cast<int>(walk_tile(4 * S));
  constexpr int run = WalkBackShared<S>::run, sums = WalkBackShared<S>::sums,
                warps = WalkBackShared<S>::warps;
  extern __shared__ float4 dynamic_shared[];
  auto& [steps, gains, ends, Bs, Cs, run_states, shared] =
      *reinterpret_cast<WalkBackShared<S>*>(dynamic_shared);
  const auto& a = walk.a;
  const WalkThread me;
  const Index group = blockIdx.x % walk.groups;
  const Chunk chunk = a.chunking.at(blockIdx.x / walk.groups);
  const Index b = chunk.s.batch;
  const Index d = group * kWalkChannels + me.channel;
  const Index first = me.quarter * S;
  const bool exists = d < a.channels;

  float rate[S], adjoint[S], dA[S], dskip = 0, dbias = 0;
#pragma unroll
  for (int j = 0; j < S; ++j) {
    const bool is_state = exists && first + j < a.states;
    rate[j] = is_state ? a.A(d, first + j) * 1.4426950408889634f : 0.0f;
    adjoint[j] = is_state ? walk.adjoints[a.at(chunk.place, first + j, d)] : 0.0f;
    dA[j] = 0;
  }
  const float skip = exists ? value_or(0.0f, a.skip, d) : 0.0f;

  const int pair = me.id % 16 * 2, row = me.id / 16;
  const Index pair_d = group * kWalkChannels + pair;
  const RawReader<T, 2> read_u(a.u, b, pair_d, a.channels, whole.channels);
  const RawReader<T, 2> read_dt(a.dt, b, pair_d, a.channels, whole.channels);
  const RawReader<T, 2> read_gate(a.gate, b, pair_d, a.channels, whole.channels);
  const RawReader<T, 2> read_dy(walk.dy, b, pair_d, a.channels, whole.channels);
  const int states_row = me.id / 4, states_first = me.id % 4 * S;
  const RawReader<T, S> read_B(a.B, b, states_first, a.states, whole.states);
  const RawReader<T, S> read_C(a.C, b, states_first, a.states, whole.states);
  float bias[2] = {0, 0};
#pragma unroll
  for (int v = 0; v < 2; ++v)
    if (pair_d + v < a.channels) bias[v] = value_or(0.0f, a.dt_bias, pair_d + v);

  const bool has_gate = static_cast<bool>(a.gate);
  const auto write_channel = [&](int t, int at, bool is_position, float raw, float u, float gate,
                                 float dy) {
    // Without branches, so that the channels' chains of operations overlap.
    const float soft = quick_softplus(raw), slope = quick_sigmoid(raw);
    const float step = a.dt_softplus ? soft : raw;
    const float dt = is_position ? step : 0.0f;
    const float share = quick_sigmoid(gate), silu = gate * share;
    steps[t][at] = {dt, dt * u};
    gains[t][at] = {has_gate ? silu * dy : dy, u};
    ends[t][at] = {a.dt_softplus ? slope : 1.0f, dy * share * (1.0f + gate * (1.0f - share))};
  };
  const auto bring_tile = [&](Index t0, int count) {
    constexpr int rounds = tile / 8;
    RawNumbers<T, 2> u[rounds], dt[rounds], gate[rounds], dy[rounds];
    read_u.read(t0, row, count, u);
    read_dt.read(t0, row, count, dt);
    read_gate.read(t0, row, count, gate);
    read_dy.read(t0, row, count, dy);
    const auto B = read_B(t0 + states_row, states_row < count);
    const auto C = read_C(t0 + states_row, states_row < count);
#pragma unroll
    for (int i = 0; i < rounds; ++i) {
      const int t = row + 8 * i;
#pragma unroll
      for (int v = 0; v < 2; ++v)
        write_channel(t, pair + v, t < count, dt[i][v] + bias[v], u[i][v], gate[i][v], dy[i][v]);
    }
    if (states_row >= tile) return;
    write_states(&Bs[states_row][states_first / 4], B);
    write_states(&Cs[states_row][states_first / 4], C);
  };
  // A thread finishes every fourth position, from the last run's on.
  const Index length = chunk.end - chunk.begin;
  const Index last = (length > 0 ? (length - 1) / run * run : 0) + run - 4 + me.quarter;
  const auto start_in = [&](const Operand<T, 3>& x) {
    return x.data + b * x.strides[0] + (chunk.begin + last) * x.strides[1] + d * x.strides[2];
  };
  T* du = start_in(walk.du);
  T* ddt = start_in(walk.ddt);
  T* dgate = start_in(walk.dgate);
  const bool has_du = static_cast<bool>(walk.du), has_ddt = static_cast<bool>(walk.ddt),
             has_dgate = static_cast<bool>(walk.dgate);
  const auto finish = [&](Index t, int at, float output, float dinput, float decayed) {
    const float dt = steps[at][me.channel].x;
    const float2 gain = gains[at][me.channel], end = ends[at][me.channel];
    float dstep = fmaf(decayed, 0.69314718055994531f, dinput * gain.y);  // rates are per ln 2
    if (walk.ddt_used) dstep += widened(walk.ddt_used(b, t, d));
    dstep *= end.x;
    dskip = fmaf(gain.x, gain.y, dskip);
    dbias += dstep;
    float to_u = fmaf(dinput, dt, skip * gain.x);
    float to_dt = dstep;
    float to_gate = end.y * fmaf(skip, gain.y, output);
    if (walk.accumulate) {
      if (has_du) to_u += widened(*du);
      if (has_ddt) to_dt += widened(*ddt);
      if (has_dgate) to_gate += widened(*dgate);
    }
    if (has_du) *du = narrowed<T>(to_u);
    if (has_ddt) *ddt = narrowed<T>(to_dt);
    if (has_dgate) *dgate = narrowed<T>(to_gate);
  };

  // A thread sums the same of B or C at all its positions.
  float* const shared_sums = walk.shared +
                             ((me.id % sums / (4 * S) * walk.groups + group) * walk.positions +
                              b * a.chunking.packing.length) *
                                 a.states +
                             me.id % (4 * S);
  for (Index i = (length + tile - 1) / tile - 1; i >= 0; --i) {
    const Index t0 = chunk.begin + i * tile;
    const int count = static_cast<int>(chunk.end - t0 < tile ? chunk.end - t0 : tile);
    const int last_run = (count - 1) / run;
    float state[S];
    load_floats(reinterpret_cast<const float4*>(kept_place<const float, S>(
                    walk.kept, a.chunking.length, chunk.place, i, walk.groups, group, me.id)),
                state);
    bring_tile(t0, count);
    __syncthreads();
    for (int r = 0; r <= last_run; ++r) {
#pragma unroll
      for (int j = 0; j < S; j += 4)
        run_states[r][j / 4][me.id] = {state[j], state[j + 1], state[j + 2], state[j + 3]};
      if (r == last_run) break;
#pragma unroll
      for (int k = 0; k < run; ++k) {
        const float2 step = steps[r * run + k][me.channel];
        float B[S];
        load_floats(&Bs[r * run + k][first / 4], B);
#pragma unroll
        for (int j = 0; j < S; ++j)
          state[j] = fmaf(quick_exp2(step.x * rate[j]), state[j], step.y * B[j]);
      }
    }
    for (int r = last_run; r >= 0; --r) {
      float entering[S], decays[run][S], states[run][S];
#pragma unroll
      for (int j = 0; j < S; j += 4) {
        const float4 four = run_states[r][j / 4][me.id];
        entering[j] = four.x, entering[j + 1] = four.y;
        entering[j + 2] = four.z, entering[j + 3] = four.w;
      }
#pragma unroll
      for (int k = 0; k < run; ++k) {
        const float2 step = steps[r * run + k][me.channel];
        float B[S];
        load_floats(&Bs[r * run + k][first / 4], B);
#pragma unroll
        for (int j = 0; j < S; ++j) {
          decays[k][j] = quick_exp2(step.x * rate[j]);
          states[k][j] = fmaf(decays[k][j], k > 0 ? states[k - 1][j] : entering[j], step.y * B[j]);
        }
      }
#pragma unroll
      for (int q = run / 4 - 1; q >= 0; --q) {
        float output[4], dinput[4], decayed_sum[4];
        // Parts of four states, position after position; of two parts together.
        constexpr int parts = S / 4;
        ChannelSums<T> channels[2 * parts];
        const auto write_sums = [&](int i) {
          channels[i].write(me.lane, [&](int of, int number, int quarter, float sum) {
            const int which = 2 * i + of;
            const int n = quarter * S + which % parts * 4 + number % 4;
            shared[r * run + 4 * q + which / parts][me.warp][number / 4 * 4 * S + n] = sum;
          });
        };
#pragma unroll
        for (int k = 4 * q + 3; k >= 4 * q; --k) {
          const float2 step = steps[r * run + k][me.channel];
          const float gain = gains[r * run + k][me.channel].x;
          float B[S], C[S], values[2 * S];
          load_floats(&Bs[r * run + k][first / 4], B);
          load_floats(&Cs[r * run + k][first / 4], C);
          float& out = output[k % 4];
          float& din = dinput[k % 4];
          float& dec = decayed_sum[k % 4];
          out = din = dec = 0;
#pragma unroll
          for (int j = 0; j < S; ++j) {
            const float lambda = fmaf(C[j], gain, adjoint[j]);
            adjoint[j] = lambda * decays[k][j];
            const float along = adjoint[j] * (k > 0 ? states[k > 0 ? k - 1 : 0][j] : entering[j]);
            values[j] = lambda * step.y;
            values[S + j] = gain * states[k][j];
            out = fmaf(C[j], states[k][j], out);
            din = fmaf(lambda, B[j], din);
            dec = fmaf(rate[j], along, dec);
            dA[j] = fmaf(along, step.x, dA[j]);
          }
#pragma unroll
          for (int part = 0; part < parts; ++part) {
            float eight[8];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              eight[j] = values[4 * part + j];
              eight[4 + j] = values[S + 4 * part + j];
            }
            const int at = k % 4 * parts + part;
            channels[at / 2].take(at % 2, me.lane, eight);
            if (S > 4 && at % 2 == 1) write_sums(at / 2);  // sooner, for want of registers
          }
        }
        const int at = r * run + 4 * q + me.quarter;
        const float out = sum_of_quarters(output, me.quarter);
        const float din = sum_of_quarters(dinput, me.quarter);
        const float dec = sum_of_quarters(decayed_sum, me.quarter);
        if constexpr (S == 4) {
          write_sums(1);
          write_sums(0);
        }
        if (exists && at < count) finish(t0 + at, at, out, din, dec);
        du -= 4 * walk.du.strides[1];
        ddt -= 4 * walk.ddt.strides[1];
        dgate -= 4 * walk.dgate.strides[1];
      }
    }
    __syncthreads();
    if (!walk.shares) continue;
#pragma unroll
    for (int part = 0; part < tile * sums / kWalkThreads; ++part) {
      const int k = (me.id + part * kWalkThreads) / sums, n = me.id % sums;
      if (k >= count || n % (4 * S) >= a.states) continue;
      float total = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) total += shared[k][w][n];
      shared_sums[(t0 + k) * a.states] = total;
    }
  }

  if (exists) {
#pragma unroll
    for (int j = 0; j < S; ++j) {
      if (first + j >= a.states) continue;
      walk.adjoints[a.at(chunk.place, first + j, d)] = adjoint[j];
      walk.dA[a.at(chunk.place, first + j, d)] = dA[j];
    }
  }
  for (int bit = 8; bit < 32; bit *= 2) {
    dskip += __shfl_xor_sync(0xffffffffu, dskip, bit);
    dbias += __shfl_xor_sync(0xffffffffu, dbias, bit);
  }
  if (exists && me.quarter == 0) {
    walk.dskip[chunk.place * a.channels + d] = dskip;
    walk.dbias[chunk.place * a.channels + d] = dbias;
  }
}

}  // namespace

template <class T>
void walk_selective_scan_back(const SelectiveWalkBack<T>& walk, Stream stream,
                              const char* operation) {
  const auto& a = walk.a;
  const Index blocks = a.chunking.places * walk.groups;
  if (blocks == 0) return;
  const auto walk_by = [&]<int S>(std::integral_constant<int, S>) {
    WholeReads whole = whole_reads<S>(a);
    whole.channels = whole.channels && has_raw_numbers<2>(walk.dy, a.channels);
    launch(selective_walk_back<T, S>, dim3(static_cast<unsigned>(blocks)), kWalkThreads,
           sizeof(WalkBackShared<S>), stream, operation, walk, whole);
  };
  if (a.states <= 16)
    walk_by(std::integral_constant<int, 4>());
  else if (a.states <= 32)
    walk_by(std::integral_constant<int, 8>());
  else
    walk_by(std::integral_constant<int, 16>());
}

#define SSM_INSTANTIATE(T) \
  template void walk_selective_scan_back<T>(const SelectiveWalkBack<T>&, Stream, const char*);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda::device
