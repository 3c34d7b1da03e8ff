// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <type_traits>

#include "kernel/tensor_core.cuh"
#include "scan/selective_channel_sums.cuh"
#include "scan/selective_walk.cuh"
#include "scan/selective_walk_stage.cuh"
#include "scan/selective_walk_tile.cuh"

namespace ssm::cuda::device {
namespace {

/// One number, or four of which the first is 16-byte aligned.
template <int Count>
__device__ void load_run(const float* from, float (&values)[Count]) {
  if constexpr (Count == 4)
    load_floats(reinterpret_cast<const float4*>(from), values);
  else
    values[0] = *from;
}
template <int Count>
__device__ void store_run(float* to, const float (&values)[Count]) {
  if constexpr (Count == 4)
    store_floats(reinterpret_cast<float4*>(to), values);
  else
    *to = values[0];
}

/// What a block has in shared memory of a tile. IsStaged: rows of the next tile are on their way.
template <class T, int S, bool IsStaged>
struct WalkBackShared {
  static constexpr int tile = static_cast<int>(walk_tile(4 * S));
  static constexpr int run = S <= 8 ? 32 / S : 4;  // positions whose states are in registers
  static constexpr int runs = tile / run;
  static constexpr int keep = static_cast<int>(walk_keep(4 * S));
  static constexpr bool keeps_runs = keep == run;  // the states that enter every run are kept
  static constexpr int sums = 8 * S;               // of a position: gradients of B, then of C
  static constexpr int warps = kWalkThreads / 32;
  static_assert(keeps_runs || !IsStaged);

  float2 steps[tile][kWalkChannels];  // Δ, Δ·u
  float2 gains[tile][kWalkChannels];  // silu(gate)·dy, u
  float2 ends[tile][kWalkChannels];   // ∂Δ/∂raw step, dy·silu'(gate)
  float4 Bs[tile][S], Cs[tile][S];
  float4 run_states[runs][S / 4][kWalkThreads];
  float shared[tile][warps][sums];
  float unit[8][8];  // matrix
  std::conditional_t<IsStaged, WalkStage<T>, char> stage;
};

/// A chunk of 32 channels, tile after tile from the last. The states that enter every run of
/// positions are read or, where fewer are kept, computed from those that enter the tile; then, run
/// after run from the last, states and decays are computed again and held in registers for the way
/// back. Formulas as SelectiveGradientRow. IsPlain: sequences are read as a whole; du and ddt are
/// wanted, a tile of them is shorter than 2^31 bytes. Then HasGate: so is dgate, and nothing is
/// added to them or to dΔ; else there is no gate.
template <class T, int S, bool IsPlain, bool HasGate>
__global__ __launch_bounds__(kWalkThreads, S <= 8 ? 3 : 2) void selective_walk_back(
    const __grid_constant__ SelectiveWalkBack<T> walk, WholeReads readable) {
  constexpr bool is_staged = IsPlain && S == 4;
  constexpr bool is_linked = IsPlain && !HasGate;
  using Shared = WalkBackShared<T, S, is_staged>;
  constexpr int tile = Shared::tile, run = Shared::run, sums = Shared::sums, warps = Shared::warps;
  constexpr bool keeps_runs = Shared::keeps_runs;
  extern __shared__ float4 dynamic_shared[];
  auto& [steps, gains, ends, Bs, Cs, run_states, shared, unit, stage] =
      *reinterpret_cast<Shared*>(dynamic_shared);
  const auto& a = walk.a;
  const WholeReads whole = IsPlain ? WholeReads{true, true} : readable;
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
    adjoint[j] = dA[j] = 0;
    if (is_state)
      adjoint[j] = a.chunking.whole ? value_or(0.0f, walk.dfinal_state, chunk.s.row, d, first + j)
                                    : walk.adjoints[a.at(chunk.place, first + j, d)];
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
  if constexpr (is_staged) stage.set_biases(me.id, a, group);
  if (me.id < 64) unit[me.id / 8][me.id % 8] = me.id / 8 == me.id % 8 ? 1.0f : 0.0f;
  __syncthreads();

  const bool has_gate = !is_linked && static_cast<bool>(a.gate);
  const auto write_pair = [&](int t, int at, bool is_position, float2 bias,
                              const RawNumbers<T, 2>& raw_dt, const RawNumbers<T, 2>& u,
                              const RawNumbers<T, 2>& gate, const RawNumbers<T, 2>& dy) {
    float2 step[2], gain[2], end[2];
    // Without branches, so that the channels' chains of operations overlap.
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float raw = raw_dt[v] + (v == 0 ? bias.x : bias.y);
      const float soft = quick_softplus(raw), slope = quick_sigmoid(raw);
      const float used = a.dt_softplus ? soft : raw;
      const float dt = is_position ? used : 0.0f;
      const float share = quick_sigmoid(gate[v]), silu = gate[v] * share;
      step[v] = {dt, dt * u[v]};
      gain[v] = {has_gate ? silu * dy[v] : dy[v], u[v]};
      end[v] = {a.dt_softplus ? slope : 1.0f, dy[v] * share * (1.0f + gate[v] * (1.0f - share))};
    }
    const auto put = [&](float2* to, const float2(&pair)[2]) {
      *reinterpret_cast<float4*>(to) = {pair[0].x, pair[0].y, pair[1].x, pair[1].y};
    };
    put(&steps[t][at], step);
    put(&gains[t][at], gain);
    put(&ends[t][at], end);
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
      write_pair(t, pair, t < count, {bias[0], bias[1]}, dt[i], u[i], gate[i], dy[i]);
    }
    if (states_row >= tile) return;
    write_states(&Bs[states_row][states_first / 4], B);
    write_states(&Cs[states_row][states_first / 4], C);
  };
  // A thread finishes every fourth position.
  const int length = static_cast<int>(chunk.end - chunk.begin);
  const int tiles = (length + tile - 1) / tile;
  const auto tile_of = [&](const Operand<T, 3>& x) {  // the last one
    return x.data + b * x.strides[0] + (chunk.begin + (tiles - 1) * tile) * x.strides[1] +
           d * x.strides[2];
  };
  const int du_row = static_cast<int>(walk.du.strides[1]) * int{sizeof(T)},
            ddt_row = static_cast<int>(walk.ddt.strides[1]) * int{sizeof(T)},
            dgate_row = static_cast<int>(walk.dgate.strides[1]) * int{sizeof(T)};
  // In one instruction, which the compiler would not find.
  const auto element_of = [](T* tile, int at, int row) {
    T* element;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(element) : "r"(at), "r"(row), "l"(tile));
    __builtin_assume(__isGlobal(element));
    return element;
  };
  T* du_tile = tile_of(walk.du);
  T* ddt_tile = tile_of(walk.ddt);
  T* dgate_tile = tile_of(walk.dgate);
  // What is added to du, ddt and dΔ of a position, read before it is needed.
  struct Links {
    T du{}, ddt{}, dstep{};
  };
  const auto read_links = [&](Index t0, int at, int count) {
    Links links;
    if (!is_linked || !exists || at >= count) return links;
    if (walk.accumulate) {
      links.du = *element_of(du_tile, at, du_row);
      links.ddt = *element_of(ddt_tile, at, ddt_row);
    }
    if (walk.ddt_used) links.dstep = walk.ddt_used(b, t0 + at, d);
    return links;
  };
  const auto finish = [&](Index t0, int at, float output, float dinput, float decayed,
                          const Links& links) {
    const float dt = steps[at][me.channel].x;
    const float2 gain = gains[at][me.channel], end = ends[at][me.channel];
    float dstep = fmaf(decayed, 0.69314718055994531f, dinput * gain.y);  // rates are per ln 2
    if (!IsPlain && walk.ddt_used) dstep += widened(walk.ddt_used(b, t0 + at, d));
    if constexpr (is_linked) dstep += widened(links.dstep);
    dstep *= end.x;
    dskip = fmaf(gain.x, gain.y, dskip);
    dbias += dstep;
    const float to_u = fmaf(dinput, dt, skip * gain.x);
    if constexpr (is_linked) {
      *element_of(du_tile, at, du_row) = narrowed<T>(widened(links.du) + to_u);
      *element_of(ddt_tile, at, ddt_row) = narrowed<T>(widened(links.ddt) + dstep);
      return;
    }
    const float to_gate = end.y * fmaf(skip, gain.y, output);
    if constexpr (IsPlain) {
      *element_of(du_tile, at, du_row) = narrowed<T>(to_u);
      *element_of(ddt_tile, at, ddt_row) = narrowed<T>(dstep);
      *element_of(dgate_tile, at, dgate_row) = narrowed<T>(to_gate);
      return;
    }
    const auto put = [&](const Operand<T, 3>& to, float value) {
      if (!to) return;
      T& element = to(b, t0 + at, d);
      element = narrowed<T>(walk.accumulate ? widened(element) + value : value);
    };
    put(walk.du, to_u);
    put(walk.ddt, dstep);
    put(walk.dgate, to_gate);
  };

  // A thread sums the same of B or C at all its positions; those of the tile behind the last.
  constexpr int wide = IsPlain ? 4 : 1, pieces = sums / wide;
  const int piece = me.id % pieces * wide;
  float* shared_sums = walk.shared +
                       ((piece / (4 * S) * walk.groups + group) * walk.positions +
                        b * a.chunking.packing.length + chunk.begin + tiles * tile) *
                           a.states +
                       piece % (4 * S);
  const auto kept_of = [&](int i) {
    return reinterpret_cast<const float4*>(kept_place<const float, S>(
        walk.kept, a.chunking.length, chunk.place, i, walk.groups, group, me.id));
  };
  // Copies the states that enter the last run of those that were not copied yet.
  int runs_left = (length + run - 1) / run;
  const float4* kept = kept_of(keeps_runs && length > 0 ? runs_left - 1 : 0);
  const Index kept_step = walk.groups * (kWalkThreads * S / 4);
  const auto copy_kept = [&](int r) {
    if (runs_left-- <= 0) return;
#pragma unroll
    for (int j = 0; j < S / 4; ++j) copy_async(&run_states[r][j][me.id], kept + j);
    kept -= kept_step;
  };
  if constexpr (is_staged) {
    if (tiles > 0) {
      const int count = length - (tiles - 1) * tile;
      for (int r = (count - 1) / run; r >= 0; --r) copy_kept(r);
      stage.template bring<HasGate>(me.id, walk, b, group, chunk.begin + (tiles - 1) * tile, count);
    }
  }
  for (int i = tiles - 1; i >= 0; --i) {
    const Index t0 = chunk.begin + i * tile;
    const int count = min(length - i * tile, tile);
    const int last_run = (count - 1) / run;
    float state[S];
    if constexpr (is_staged) {
      wait_for_copies();
      stage.template use<HasGate>(me.id, count, write_pair, Bs, Cs);
      __syncthreads();
      if (i > 0) stage.template bring<HasGate>(me.id, walk, b, group, t0 - tile, tile);
      for (int r = Shared::runs - 1; r > last_run; --r) copy_kept(r);
    } else {
      if constexpr (keeps_runs) {
        for (int r = last_run; r >= 0; --r) copy_kept(r);
      } else {
        load_floats(kept_of(i * (tile / Shared::keep)), state);
      }
      bring_tile(t0, count);
      if constexpr (keeps_runs) wait_for_copies();
      __syncthreads();
    }
    for (int r = 0; !keeps_runs && r <= last_run; ++r) {
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
      if (is_staged) copy_kept(r);
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
        const int at = r * run + 4 * q + me.quarter;
        const Links links = read_links(t0, at, count);
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
            channels[at / 2].take(at % 2, me.lane, eight, unit[me.lane / 4]);
            if (S > 4 && at % 2 == 1) write_sums(at / 2);  // sooner, for want of registers
          }
        }
        const float out = sum_of_quarters(output, me.quarter);
        const float din = sum_of_quarters(dinput, me.quarter);
        const float dec = sum_of_quarters(decayed_sum, me.quarter);
        if constexpr (S == 4) {
          write_sums(1);
          write_sums(0);
        }
        if (exists && at < count) finish(t0, at, out, din, dec, links);
      }
    }
    __syncthreads();
    if constexpr (IsPlain) {
      du_tile = element_of(du_tile, -tile, du_row);
      ddt_tile = element_of(ddt_tile, -tile, ddt_row);
      if (HasGate) dgate_tile = element_of(dgate_tile, -tile, dgate_row);
    }
    shared_sums -= tile * a.states;
    if (!walk.shares) continue;
#pragma unroll
    for (int k = me.id / pieces; k < tile; k += kWalkThreads / pieces) {
      if (k >= count || piece % (4 * S) >= a.states) continue;
      float total[wide] = {};
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        float own[wide];
        load_run(&shared[k][w][piece], own);
#pragma unroll
        for (int v = 0; v < wide; ++v) total[v] += own[v];
      }
      store_run(shared_sums + k * static_cast<int>(a.states), total);
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
    const auto is_near = [](const Operand<T, 3>& x) {
      return x && std::abs(x.strides[1]) < Index{1} << 24;
    };
    const bool has_gate = static_cast<bool>(a.gate);
    const bool is_plain =
        whole.channels && whole.states && reinterpret_cast<std::uintptr_t>(walk.shared) % 16 == 0 &&
        a.states % 4 == 0 && (S > 4 || has_staged_rows(walk)) && is_near(walk.du) &&
        is_near(walk.ddt) &&
        (has_gate ? is_near(walk.dgate) && !walk.ddt_used && !walk.accumulate : !walk.dgate);
    launch(!is_plain  ? selective_walk_back<T, S, false, true>
           : has_gate ? selective_walk_back<T, S, true, true>
                      : selective_walk_back<T, S, true, false>,
           dim3(static_cast<unsigned>(blocks)), kWalkThreads,
           is_plain ? sizeof(WalkBackShared<T, S, S == 4>) : sizeof(WalkBackShared<T, S, false>),
           stream, operation, walk, whole);
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
