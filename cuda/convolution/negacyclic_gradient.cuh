// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/negacyclic_rows.cuh"

namespace ssm::cuda::device {

// The kernel's gradient is a correlation summed over the batch, dkernel[τ] = Σ_b Σ_t
// ds_t · u_{t−τ}. Where convolve_negacyclic multiplies polynomials in n2, a second transform, over
// n2, finishes the job here:
//   X̂[k, j]   = Σ_n2 X[k, n2]·exp(−2πi·n2·κ/(32·R))·exp(−2πi·n2·j/32)
//   P_i[k, j] = Σ_rows conj(Û_{m−i})·dŜ_m
// so that the sum over the batch stays in registers: two numbers a lane, frequency and i.

/// Shared memory of a block of 2·P::rows warps: inputs' data, matrices, and in place of the tables'
/// ring what follows.
template <class P>
struct GradientShared {
  static constexpr int turn_at = P::ring_at;                     // [Outer, 16] pairs of n2
  static constexpr int inner_at = turn_at + P::Outer * 128;      // [part][tile][step][lane]
  static constexpr int root_at = inner_at + 8 * 512;             // [32] exp(2πi·n/32)
  static constexpr int outputs_at = root_at + 256;               // output gradients' data
  static constexpr int ahead_at = outputs_at + P::Outer * 1024;  // [warp][run][lane], next tile
  static constexpr int bytes = ahead_at + P::Outer * 1024;
  static_assert(outputs_at <= P::bytes && outputs_at % 128 == 0);
};

template <class P>
__device__ inline void make_inner_matrices(char* shared) {
  using Shared = GradientShared<P>;
  uint2* const turn = reinterpret_cast<uint2*>(shared + Shared::turn_at);
  unsigned* const inner = reinterpret_cast<unsigned*>(shared + Shared::inner_at);
  float2* const root = reinterpret_cast<float2*>(shared + Shared::root_at);
  for (int i = threadIdx.x; i < P::Outer * 16; i += blockDim.x) {
    float2 v[2];
#pragma unroll
    for (int e = 0; e < 2; ++e)
      sincospif(-(2.f * (i / 16) + 1.f) * (2 * (i % 16) + e) / (64 * P::Outer), &v[e].y, &v[e].x);
    turn[i] = {pack_half(v[0].x, v[1].x), pack_half(v[0].y, v[1].y)};
  }
  for (int i = threadIdx.x; i < 8 * 128; i += blockDim.x) {
    const int reg = i % 4, lane = i / 4 % 32, step = i / 128 % 2, tile = i / 256 % 2,
              part = i / 512;
    const int row = 16 * tile + lane / 4 + 8 * (reg % 2);
    const int column = 16 * step + 2 * (lane % 4) + 8 * (reg / 2);
    float2 v[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) sincospif(row * (column + e) % 32 / 16.f, &v[e].y, &v[e].x);
    inner[i] = part == 0 ? pack_half(v[0].x, v[1].x) : pack_half(v[0].y, v[1].y);
  }
  if (threadIdx.x < 32) sincospif(threadIdx.x / 16.f, &root[threadIdx.x].y, &root[threadIdx.x].x);
}

/// The transform over n2 at one frequency: sum[tile][2·half + e] is frequency 16·tile + 8·half + g
/// of row 2·q + e.
struct InnerSums {
  float re[2][4], im[2][4];
};
__device__ inline void inner_transform(InnerSums& sum, unsigned from, const uint2* turn,
                                       const uint4* inner) {
  const int lane = threadIdx.x % 32, q = lane % 4;
  unsigned b[2][4], negative[4];
  load_rows_of_tiles(b[0], from);
  load_rows_of_tiles(b[1], from + 512);
#pragma unroll
  for (int run = 0; run < 4; ++run) {
    const uint2 w = turn[4 * run + q];
    const unsigned re = b[0][run], im = b[1][run];
    b[0][run] = multiply_add_halves(im ^ 0x80008000u, w.y, multiply_halves(re, w.x));
    b[1][run] = multiply_add_halves(im, w.x, multiply_halves(re, w.y));
    negative[run] = b[0][run] ^ 0x80008000u;
  }
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.re[tile][k] = sum.im[tile][k] = 0.f;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint4 c = inner[(2 * tile + step) * 32 + lane],
                  s = inner[(4 + 2 * tile + step) * 32 + lane];
      const unsigned cosine[4] = {c.x, c.y, c.z, c.w}, sine[4] = {s.x, s.y, s.z, s.w};
      multiply_tile_half(sum.re[tile], cosine, b[0][2 * step], b[0][2 * step + 1]);
      multiply_tile_half(sum.im[tile], cosine, b[1][2 * step], b[1][2 * step + 1]);
      multiply_tile_half(sum.re[tile], sine, b[1][2 * step], b[1][2 * step + 1]);
      multiply_tile_half(sum.im[tile], sine, negative[2 * step], negative[2 * step + 1]);
    }
  }
}

/// Σ over the rows of a tile of conj(x of block m − i) · y of block m, at frequency
/// 16·(q & 1) + 8·(q >> 1) + g; `take(i, sum)` for each i, four at a time.
template <int Blocks, class Take>
__device__ inline void correlate_rows(const InnerSums& x, const InnerSums& y, const Take& take) {
  constexpr int group = Blocks < 4 ? Blocks : 4;
  const int q = threadIdx.x % 4;
  const auto add = [](float2& sum, float2 a, float2 b) {
    sum.x = fmaf(a.y, b.y, fmaf(a.x, b.x, sum.x));
    sum.y = fmaf(-a.y, b.x, fmaf(a.x, b.y, sum.y));
  };
#pragma unroll
  for (int first = 0; first < Blocks; first += group) {
    float2 sum[group][2][2];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto of = [&](const InnerSums& v, int e) {
          return float2{v.re[tile][2 * half + e], v.im[tile][2 * half + e]};
        };
        const float2 b[2] = {of(y, 0), of(y, 1)};
#pragma unroll
        for (int i = 0; i < group; ++i) sum[i][tile][half] = {0.f, 0.f};
        const auto add_to = [&](int i, float2 a, float2 other) {
          if (i >= first && i < first + group) add(sum[i - first][tile][half], a, other);
        };
#pragma unroll
        for (int s = first / 2; s < (Blocks + 1) / 2 && 2 * s - 1 < first + group; ++s) {
          float2 a[2];  // rows 2·(q − s) + e, zeros before the sequence's first
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            a[e] = of(x, e);
            if (s == 0 || (e == 0 && 2 * s >= first + group)) continue;
            a[e] = {__shfl_up_sync(~0u, a[e].x, s, 4), __shfl_up_sync(~0u, a[e].y, s, 4)};
            if (2 * q % Blocks < 2 * s) a[e] = {0.f, 0.f};
          }
          add_to(2 * s, a[0], b[0]);
          add_to(2 * s, a[1], b[1]);
          if (2 * s + 1 < Blocks) add_to(2 * s + 1, a[0], b[1]);
          if (s > 0) add_to(2 * s - 1, a[1], b[0]);
        }
      }
      // Each of the four lanes of a row keeps one of its four frequencies.
#pragma unroll
    for (int i = 0; i < group; ++i) {
      float2 kept[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 sent = q % 2 == 0 ? sum[i][1][half] : sum[i][0][half];
        kept[half] = q % 2 == 0 ? sum[i][0][half] : sum[i][1][half];
        kept[half].x += __shfl_xor_sync(~0u, sent.x, 1);
        kept[half].y += __shfl_xor_sync(~0u, sent.y, 1);
      }
      const float2 sent = q < 2 ? kept[1] : kept[0];
      float2 out = q < 2 ? kept[0] : kept[1];
      out.x += __shfl_xor_sync(~0u, sent.x, 2);
      out.y += __shfl_xor_sync(~0u, sent.y, 2);
      take(first + i, out);
    }
  }
}

/// Where inner_inverse leaves position n2: the bits of its lane, reversed as the stages leave them.
__device__ inline int inner_position(int lane) {
  return (lane & 3) | (lane >> 4 & 1) << 2 | (lane >> 3 & 1) << 3 | (lane >> 2 & 1) << 4;
}

/// Σ_j v_j·exp(2πi·n2·j/32) over the lanes, j laid out as correlate_rows leaves it: five stages of
/// a radix-2 transform.
__device__ inline float2 inner_inverse(float2 v, const float2* root) {
  const int lane = threadIdx.x % 32, j = 16 * (lane & 1) + 8 * (lane >> 1 & 1) + lane / 4;
#pragma unroll
  for (int stage = 0; stage < 5; ++stage) {
    const int lane_bit = stage < 2 ? 1 << stage : 64 >> stage;  // that of bit 4 − stage of j
    const float2 other{__shfl_xor_sync(~0u, v.x, lane_bit), __shfl_xor_sync(~0u, v.y, lane_bit)};
    const float2 turned =
        multiply(root[(j & ((16 >> stage) - 1)) << stage], float2{other.x - v.x, other.y - v.y});
    v = (lane & lane_bit) != 0 ? turned : float2{v.x + other.x, v.y + other.y};
  }
  return v;
}

/// The kernel's gradient of channel blockIdx.x, all sequences in order. Half of the warps transform
/// inputs, half output gradients; then each takes whole frequencies of both.
template <class P, bool Gated, int Blocks>
__global__ void __launch_bounds__(2 * P::threads, 1)
    correlate_negacyclic(const KernelGradientLaunch launch) {
  constexpr int slabs = P::Outer / 16;  // frequencies of a warp
  using Shared = GradientShared<P>;
  using Row = TileRow<P, Blocks, false>;
  extern __shared__ char shared[];
  make_matrices<P>(shared);
  make_inner_matrices<P>(shared);
  const uint4* const forward = reinterpret_cast<const uint4*>(shared + P::forward_at);
  const uint4* const inner = reinterpret_cast<const uint4*>(shared + Shared::inner_at);
  float* const scratch = reinterpret_cast<float*>(shared + P::scratch_at);
  const int warp = threadIdx.x / 32, side = warp / P::rows, lane = threadIdx.x % 32;
  const int channel = blockIdx.x;
  const int tiles = (launch.batch + Row::sequences - 1) / Row::sequences;
  const unsigned inputs = shared_address(shared), outputs = inputs + Shared::outputs_at;
  const unsigned mine = side == 0 ? inputs : outputs;
  const Sequences<const BFloat16> tensor = side == 0 ? launch.x : launch.dy;
  const Sequences<const BFloat16> gates = side == 0 ? launch.gate_in : launch.gate_out;
  float2 gradient[slabs][Blocks] = {};
  const unsigned ahead = inputs + Shared::ahead_at + warp * (P::runs * 512) + lane * 16;
  bool fetched = false;
  for (int tile = 0; tile < tiles; ++tile) {
    const Row row(tile, launch.batch, launch.length);
    const BFloat16* const x = row.of(tensor, channel);
    const BFloat16* const gate = Gated ? row.of(gates, channel) : nullptr;
    const auto whole = [&](const BFloat16* p) { return launch.length % 8 == 0 && is_aligned(p); };
    uint4 raw[P::runs], factors[P::runs];
    if (gate != nullptr) row.load(factors, gate, whole(gate));
    if (fetched) {
      wait_for_groups<0>();
#pragma unroll
      for (int i = 0; i < P::runs; ++i) raw[i] = load_run(ahead + i * 512);
    } else {
      row.load(raw, x, whole(x));
    }
    float v[P::runs][8];
    widen_runs<P>(v, raw);
    if (gate != nullptr) multiply_runs<P>(v, factors);
    float largest = largest_magnitude<P>(v);
#pragma unroll
    for (int other = 16; other > 0; other /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
    if (lane == 0) scratch[warp] = largest;
    __syncthreads();
    float2 scale[2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      largest = 0.f;
#pragma unroll
      for (int i = 0; i < P::rows; ++i) largest = fmaxf(largest, scratch[s * P::rows + i]);
      scale[s] = range_powers(largest);
    }
    store_halves<P, false>(mine, v, side == 0 ? scale[0].x : scale[1].x);
    outer_transform(OuterLane<P>(mine), forward);
    fetched = tile + 1 < tiles;
    if (fetched) {
      const Row later(tile + 1, launch.batch, launch.length);
      const BFloat16* const next = later.of(tensor, channel);
      fetched = whole(next);
      if (fetched) {
#pragma unroll
        for (int i = 0; i < P::runs; ++i)
          copy_run_async(ahead + i * 512, next + later.at(i), later.at(i) < later.left);
        commit_copies();
      }
      if (gate != nullptr) later.prefetch_lines(later.of(gates, channel));
    }
    __syncthreads();
    const float factor = scale[0].y * scale[1].y;
#pragma unroll
    for (int j = 0; j < slabs; ++j) {
      const int k = warp + 16 * j, run = lane / 8;
      const unsigned at =
          k * 1024 + run * 128 + (((lane % 8) ^ (warp & 7) ^ 2 * run ^ (j >= slabs / 2)) << 4);
      const uint2* const turn = reinterpret_cast<const uint2*>(shared + Shared::turn_at) + k * 16;
      InnerSums u, ds;
      inner_transform(u, inputs + at, turn, inner);
      inner_transform(ds, outputs + at, turn, inner);
      correlate_rows<Blocks>(u, ds, [&](int i, float2 sum) {
        gradient[j][i].x = fmaf(factor, sum.x, gradient[j][i].x);
        gradient[j][i].y = fmaf(factor, sum.y, gradient[j][i].y);
      });
    }
  }

  // To the kernel's blocks: dD_i = dH_i − i·(−1)^k·dH_{i+1}, then the outer inverse with block i as
  // row i.
  const float2* const root = reinterpret_cast<const float2*>(shared + Shared::root_at);
  const int position = inner_position(lane);
  float largest = 0.f;
#pragma unroll
  for (int j = 0; j < slabs; ++j) {
    const int k = warp + 16 * j;
    const float sign = k % 2 == 0 ? 1.f : -1.f;
    float2 after{0.f, 0.f}, turn;
    sincospif((2.f * k + 1.f) * position / (64 * P::Outer), &turn.y, &turn.x);
    turn = {turn.x / 32, turn.y / 32};
#pragma unroll
    for (int i = Blocks - 1; i >= 0; --i) {
      const float2 h = multiply(inner_inverse(gradient[j][i], root), turn);
      gradient[j][i] = {h.x + sign * after.y, h.y - sign * after.x};
      after = h;
      largest = fmaxf(largest, fmaxf(fabsf(gradient[j][i].x), fabsf(gradient[j][i].y)));
    }
  }
#pragma unroll
  for (int other = 16; other > 0; other /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
  if (lane == 0) scratch[warp] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2 * P::rows; ++i) largest = fmaxf(largest, scratch[i]);
  const float2 scale = range_powers(largest);
#pragma unroll
  for (int j = 0; j < slabs; ++j)
#pragma unroll
    for (int i = 0; i < Blocks; ++i) {
      const int k = warp + 16 * j, run = position / 8;
      const float2 v = gradient[j][i];
      char* const to = shared + k * 1024 + run * 128 +
                       ((i ^ (warp & 7) ^ 2 * run ^ (j >= slabs / 2)) << 4) + position % 8 * 2;
      *reinterpret_cast<__half*>(to) = __float2half_rn(scale.x * v.x);
      *reinterpret_cast<__half*>(to + 512) = __float2half_rn(scale.x * v.y);
    }
  __syncthreads();
  if (warp >= Blocks) return;
  outer_inverse(OuterLane<P>(inputs), reinterpret_cast<const uint4*>(shared + P::inverse_at),
                [](float a, float b) { return pack_half(a, b); });
  __syncwarp();
  const int taps = min(launch.taps, launch.length);
  float* const to = launch.dkernel + static_cast<long long>(channel) * launch.taps;
#pragma unroll
  for (int i = 0; i < P::runs; ++i) {
    const uint4 run = load_run(run_address<P>(inputs, i));
    const unsigned word[4] = {run.x, run.y, run.z, run.w};
    const int at = warp * P::length + lane * 8 + 256 * i;
    float v[8], sum[8];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float2 pair = unpack_half(word[c]);
      v[2 * c] = scale.y * pair.x, v[2 * c + 1] = scale.y * pair.y;
    }
    const bool full = at + 8 <= taps && is_aligned(to);
    load_eight(to + at, taps - at, full, sum);
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[c] += v[c];
    store_eight(to + at, taps - at, full, sum);
    if (at == 0 && launch.dskip != nullptr) launch.dskip[channel] += v[0];
  }
}

}  // namespace ssm::cuda::device
