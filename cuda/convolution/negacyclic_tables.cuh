// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/negacyclic_rows.cuh"

namespace ssm::cuda::device {

// Sequences of several blocks: with x_j, y_m blocks of P::length positions and h the kernel,
//   y_m = Σ_i G_i x_{m−i},   G_i the kernel's taps i·length + δ, −length < δ < length
// G_i is a polynomial modulo z^(2·length) + 1 whose transform is H_i = D_i + i·(−1)^k·D_{i−1}, D_i
// the transform of the kernel's block i. The blocks of a sequence are neighboring rows, so G_i
// meets row r − i where it makes row r.

/// The inner products' matrices: [channel][k][i][part][64] words, word 32 + m holds entries (m,
/// m − 1), where entry d is H[d] for d ≥ 0 and exp(−2πi·κ/R)·H[32 + d] for d < 0. Such pairs are
/// what a lane holds of an operand.
template <class P>
__host__ __device__ constexpr std::size_t negacyclic_table_bytes(int blocks) {
  return std::size_t{P::Outer} * blocks * P::table_bytes;
}

struct NegacyclicKernelLaunch {
  const float* kernel;  // [D, pitch]
  const float* skip;    // [D] or null
  int pitch;
  int taps;
  int channels;
  char* tables;    // [D, negacyclic_table_bytes]
  float* unscale;  // [D]
};

/// Tables of P::rows / Blocks channels, scaled so that magnitudes sum to less than 8: with inputs
/// below 16 nothing can leave half's range.
template <class P, int Blocks>
__global__ void __launch_bounds__(P::threads)
    build_negacyclic_tables(const NegacyclicKernelLaunch launch) {
  extern __shared__ char shared[];
  make_matrices<P>(shared);
  const unsigned data = shared_address(shared);
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32, block = row % Blocks;
  const int first = blockIdx.x * (P::rows / Blocks), channel = first + row / Blocks;
  const bool present = channel < launch.channels;
  float v[P::runs][8], sum = 0.f;
  const float* const taps =
      launch.kernel + static_cast<long long>(present ? channel : 0) * launch.pitch;
  const bool aligned = is_aligned(taps);
#pragma unroll
  for (int i = 0; i < P::runs; ++i) {
    const int at = block * P::length + (i * 32 + lane) * 8;
    const int count = present ? launch.taps - at : 0;
    load_eight(taps + at, count, aligned && count >= 8, v[i]);
    if (i == 0 && present && at == 0 && launch.skip != nullptr) v[0][0] += launch.skip[channel];
#pragma unroll
    for (int c = 0; c < 8; ++c) sum += fabsf(v[i][c]);
  }
  float* const scratch = reinterpret_cast<float*>(shared + P::scratch_at);
  const float2 scale = range_powers(2.f * rows_magnitude<true, Blocks>(sum, scratch));
  if (present && block == 0 && lane == 0) launch.unscale[channel] = scale.y;
  store_halves<P, false>(data, v, scale.x);
  outer_transform(OuterLane<P>(data), reinterpret_cast<const uint4*>(shared + P::forward_at));
  __syncthreads();

  const auto transformed = [&](int k, int r) {
    const int run = lane / 8;
    const char* const at =
        shared + k * 1024 + run * 128 + (((r ^ k ^ 2 * run ^ k / P::half) & 7) << 4) + lane % 8 * 2;
    return float2{__half2float(*reinterpret_cast<const __half*>(at)),
                  __half2float(*reinterpret_cast<const __half*>(at + 512))};
  };
#pragma unroll 1
  for (int item = row; item < P::rows * P::Outer; item += P::rows) {
    const int k = item % P::Outer, r = item / P::Outer, i = r % Blocks;
    if (first + r / Blocks >= launch.channels) break;
    float2 h = transformed(k, r), w;
    if (i > 0) {
      const float2 before = transformed(k, r - 1);
      const float sign = k % 2 == 0 ? 1.f : -1.f;
      h = {h.x - sign * before.y, h.y + sign * before.x};
    }
    sincospif(-(2.f * k + 1.f) / (2 * P::Outer), &w.y, &w.x);
    const float2 turned = multiply(w, h);
    float2 h_before{__shfl_up_sync(~0u, h.x, 1), __shfl_up_sync(~0u, h.y, 1)};
    float2 turned_before{__shfl_up_sync(~0u, turned.x, 1), __shfl_up_sync(~0u, turned.y, 1)};
    const float2 last{__shfl_sync(~0u, turned.x, 31), __shfl_sync(~0u, turned.y, 31)};
    if (lane == 0) h_before = last, turned_before = {0.f, 0.f};
    unsigned* const out = reinterpret_cast<unsigned*>(
        launch.tables + ((static_cast<long long>(first + r / Blocks) * P::Outer + k) * Blocks + i) *
                            P::table_bytes);
    out[lane] = pack_half(turned.x, turned_before.x);
    out[32 + lane] = pack_half(h.x, h_before.x);
    out[64 + lane] = pack_half(turned.y, turned_before.y);
    out[96 + lane] = pack_half(h.y, h_before.y);
  }
}

/// A warp's tables on their way through shared memory, a slot for the tables of a frequency.
template <class P, int Blocks>
struct TableRing {
  static constexpr int slots = Blocks == 4 ? 2 : 4;
  static_assert(slots * Blocks * P::table_bytes <= P::ring_bytes);
  const char* from;  // of the next step, for this lane
  unsigned to;

  __device__ TableRing(const char* tables, unsigned ring) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    from = tables + warp * Blocks * P::table_bytes + lane * 16;
    to = ring + warp * P::ring_bytes;
#pragma unroll
    for (int i = 0; i + 1 < slots; ++i) fetch(i);
  }
  __device__ unsigned slot(int step) const { return to + step % slots * (P::ring_bytes / slots); }
  __device__ void fetch(int step) {
    if (step < P::slabs) {
#pragma unroll
      for (int i = 0; i < Blocks; ++i)
        copy_run_async(slot(step) + threadIdx.x % 32 * 16 + i * P::table_bytes,
                       from + i * P::table_bytes);
      from += P::rows * Blocks * P::table_bytes;
    }
    commit_copies();
  }
  /// Waits for the oldest slot; all lanes are done with the one before.
  __device__ void wait() {
    wait_for_groups<slots - 2>();
    __syncwarp();
  }
};

/// The three 16 × 16 tiles of a table's matrix, by difference of rows and columns (−16, 0, 16).
/// `zero_word` is zero, unknown to the compiler: a word of two tiles is made anew for each, or
/// every product would copy its operands.
__device__ inline void toeplitz_operands(unsigned (&a)[3][4], unsigned words, unsigned zero_word) {
  unsigned h[7];
#pragma unroll
  for (int d = 0; d < 7; ++d) h[d] = load_word(words + (d - 3) * 32);
#pragma unroll
  for (int t = 0; t < 3; ++t) {
    a[t][0] = h[2 * t + 1];
    a[t][1] = h[2 * t + 2];
    a[t][2] = t == 0 ? h[0] : h[2 * t] ^ zero_word;
    a[t][3] = h[2 * t + 1] ^ zero_word;
  }
}

/// The inner products of this warp's frequencies, in place.
template <class P, int Blocks>
__device__ inline void inner_products(unsigned data, unsigned zero, unsigned zero_word,
                                      TableRing<P, Blocks>& ring) {
  using Ring = TableRing<P, Blocks>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
  const int row = lane % 8, run = lane / 8;
  const unsigned words = (g - 2 * q + 32) * 4;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    const unsigned flip = warp & 7 ^ 2 * run ^ half;
#pragma unroll
    for (int j = 0; j < P::slabs / 2; ++j) {
      const unsigned slab = data + (warp + P::half * half + P::rows * j) * 1024 + run * 128;
      float re[2][4] = {}, im[2][4] = {};
      const int step = half * (P::slabs / 2) + j;
      ring.wait();
      ring.fetch(step + Ring::slots - 1);
      const unsigned table = ring.slot(step) + words;
#pragma unroll
      for (int i = 0; i < Blocks; ++i) {
        unsigned a[2][3][4];
#pragma unroll
        for (int part = 0; part < 2; ++part)
          toeplitz_operands(a[part], table + i * P::table_bytes + part * 256, zero_word);
        // Row r − i, or zeros.
        const unsigned turn = (row - i & 7 ^ flip) << 4;
        const unsigned from = row % Blocks >= i ? slab + turn : zero + turn;
        unsigned b[2][4], negative[4];
        load_rows_of_tiles(b[0], from);
        load_rows_of_tiles(b[1], from + 512);
#pragma unroll
        for (int k = 0; k < 4; ++k) negative[k] = b[1][k] ^ 0x80008000u;
#pragma unroll
        for (int step_in = 0; step_in < 2; ++step_in)
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            const int t = 1 + tile - step_in, first = 2 * step_in;
            multiply_tile_half(re[tile], a[0][t], b[0][first], b[0][first + 1]);
            multiply_tile_half(im[tile], a[0][t], b[1][first], b[1][first + 1]);
            multiply_tile_half(re[tile], a[1][t], negative[first], negative[first + 1]);
            multiply_tile_half(im[tile], a[1][t], b[0][first], b[0][first + 1]);
          }
      }
      __syncwarp();
      const unsigned to = slab + ((row ^ flip) << 4);
      const auto store = [&](unsigned at, const float(&sum)[2][4]) {
        store_tiles<true>(at, pack_half(sum[0][0], sum[0][1]), pack_half(sum[0][2], sum[0][3]),
                          pack_half(sum[1][0], sum[1][1]), pack_half(sum[1][2], sum[1][3]));
      };
      store(to, re);
      store(to + 512, im);
    }
  }
}

}  // namespace ssm::cuda::device
