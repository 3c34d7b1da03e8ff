// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/block_transform.cuh"
#include "kernel/shared_tiles.cuh"

namespace ssm::cuda::device {

// Negacyclic convolution by a partial transform: over one of two axes, with Toeplitz products over
// the other. A block of `length` positions t = n1·32 + n2, zero-padded to twice that, is a
// polynomial modulo z^(2·length) + 1; with R = 2·Outer and κ = k + 1/2, a transform over n1 alone,
//   X[k, n2] = Σ_{n1 < Outer} x[n1, n2]·exp(−2πi·n1·κ/R),   k < Outer
// (the other frequencies are conjugates), leaves at each k a product of polynomials in n2 modulo
// z^32 − exp(−2πi·κ/R): a 32 × 32 complex matrix whose entries depend only on the difference of row
// and column, the same for every sequence of a channel. The inverse is
//   y[n1, n2] = 1/Outer · Σ_k Re Y[k, n2]·exp(2πi·n1·κ/R)
// No twiddles, two passes through shared memory. Frequencies k and Outer − 1 − k share the sums
// over even and over odd n1, so that the outer stages cost Outer multiply-adds an element each, the
// inner one 128 for every block of kernel.
//
// Eight rows (sequences, or blocks of sequences) travel together, one a warp in the outer stages;
// in the inner stage the rows are the columns of a product and a warp takes whole frequencies.
// Shared memory holds, in 16-byte runs of eight neighboring n2, [slab][part][run][row]: slab is a
// frequency (part: real, imaginary) or an n1, even ones first.

template <int Outer_>
struct NegacyclicPlan {
  static constexpr int Outer = Outer_, Inner = 32, length = Outer * Inner;
  static constexpr int rows = 8, threads = 32 * rows;
  static constexpr int half = Outer / 2, tiles = half / 16;
  static constexpr int runs = length / 256;   // 16-byte runs of a row that a lane reads and writes
  static constexpr int slabs = Outer / rows;  // frequencies of a warp

  static constexpr int blocks_per_multiprocessor = Outer == 64 ? 2 : 3;
  static constexpr int matrix_words = 4 * tiles * tiles * 32;  // uint4 of one direction
  static constexpr int table_bytes = 512;                      // of one inner product
  static constexpr int ring_bytes = 4096;                      // tables on their way, of a warp
  static constexpr int forward_at = Outer * 1024;              // after the data
  static constexpr int inverse_at = forward_at + matrix_words * 16;
  static constexpr int zero_at = inverse_at + matrix_words * 16;  // 640 bytes
  static constexpr int scratch_at = zero_at + 640, ring_at = scratch_at + 128;
  static constexpr int bytes = ring_at + rows * ring_bytes;
};

// The outer stages --------------------------------------------------------------------------------

/// Of packed matrices: [parity of n1][part][tile of 16 outputs][step of 16 inputs], each a left
/// operand.
template <class P>
__device__ inline int matrix_at(int parity, int part, int tile, int step) {
  return (((parity * 2 + part) * P::tiles + tile) * P::tiles + step) * 32 + threadIdx.x % 32;
}

/// Fills the matrices of both outer stages. Ends with a barrier.
template <class P>
__device__ inline void make_matrices(char* shared) {
  constexpr int turn = 4 * P::Outer, quarter = turn / 4;
  float* const cosine = reinterpret_cast<float*>(shared + P::ring_at);
  for (int i = threadIdx.x; i < turn; i += P::threads) cosine[i] = cospif(2.f * i / turn);
  if (threadIdx.x < 160) reinterpret_cast<unsigned*>(shared + P::zero_at)[threadIdx.x] = 0u;
  __syncthreads();
  unsigned* const words = reinterpret_cast<unsigned*>(shared + P::forward_at);
#pragma unroll 1
  for (int i = threadIdx.x; i < 2 * P::matrix_words * 4; i += P::threads) {
    const int reg = i % 4, lane = i / 4 % 32, tile = i / 128;
    const int row = 16 * (tile / P::tiles % P::tiles) + lane / 4 + 8 * (reg % 2);
    const int column = 16 * (tile % P::tiles) + 2 * (lane % 4) + 8 * (reg / 2);
    const int part = tile / (P::tiles * P::tiles) % 2,
              parity = tile / (2 * P::tiles * P::tiles) % 2;
    const bool inverse = i >= P::matrix_words * 4;
    float v[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int n1 = 2 * (inverse ? row : column + e) + parity, k = inverse ? column + e : row;
      // Real part cos θ, imaginary part −sin θ = cos(θ + a quarter turn).
      v[e] = cosine[(n1 * (2 * k + 1) + part * quarter) % turn] * (inverse ? 1.f / P::Outer : 1.f);
    }
    words[i] = pack_half(v[0], v[1]);
  }
  __syncthreads();
}

/// Where this lane's row of the tiles of an outer stage lies: tiles are two runs of two times eight
/// slabs.
template <class P>
struct OuterLane {
  unsigned near_, far_, turn_;

  __device__ explicit OuterLane(unsigned data) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % P::rows;
    const int line = lane % 8, low = lane / 8 % 2, pair = lane / 16;
    near_ = data + (8 * low + line) * 1024 + pair * 128;
    far_ = data + (P::Outer - 1 - 8 * low - line) * 1024 + pair * 128;
    turn_ = (row ^ line ^ 2 * pair) << 4;
  }
  /// Slabs first … first + 15 of one half, runs 2·j and 2·j + 1.
  __device__ unsigned at(int half, int first, int part, int j) const {
    return near_ + (half * P::half + first) * 1024 + part * 512 + j * 256 +
           (turn_ ^ ((4 * j ^ half) << 4));
  }
  /// Slabs Outer − 1 − first … Outer − 16 − first, downwards.
  __device__ unsigned mirrored(int first, int part, int j) const {
    return far_ - first * 1024 + part * 512 + j * 256 + (turn_ ^ ((4 * j ^ 6) << 4));
  }
};

/// The forward transform of this warp's row, in place.
template <class P>
__device__ inline void outer_transform(const OuterLane<P>& lane, const uint4* matrices) {
  unsigned b[2][P::tiles][4][2];
#pragma unroll
  for (int parity = 0; parity < 2; ++parity)
#pragma unroll
    for (int step = 0; step < P::tiles; ++step)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        unsigned r[4];
        load_columns_of_tiles(r, lane.at(parity, 16 * step, 0, j));
#pragma unroll
        for (int k = 0; k < 4; ++k) b[parity][step][2 * j + k / 2][k % 2] = r[k];
      }
  __syncwarp();
#pragma unroll
  for (int part = 0; part < 2; ++part)
#pragma unroll
    for (int tile = 0; tile < P::tiles; ++tile) {
      float even[4][4] = {}, odd[4][4] = {};
#pragma unroll
      for (int step = 0; step < P::tiles; ++step) {
        const uint4 e = matrices[matrix_at<P>(0, part, tile, step)];
        const uint4 o = matrices[matrix_at<P>(1, part, tile, step)];
        const unsigned a[2][4] = {{e.x, e.y, e.z, e.w}, {o.x, o.y, o.z, o.w}};
#pragma unroll
        for (int run = 0; run < 4; ++run) {
          multiply_tile_half(even[run], a[0], b[0][step][run][0], b[0][step][run][1]);
          multiply_tile_half(odd[run], a[1], b[1][step][run][0], b[1][step][run][1]);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        unsigned near[4], far[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float* const e = &even[2 * j + k / 2][2 * (k % 2)];
          const float* const o = &odd[2 * j + k / 2][2 * (k % 2)];
          const unsigned e_pair = pack_half(e[0], e[1]), o_pair = pack_half(o[0], o[1]);
          near[k] = add_halves(e_pair, o_pair);
          far[k] = part == 0 ? subtract_halves(e_pair, o_pair) : subtract_halves(o_pair, e_pair);
        }
        store_tiles<false>(lane.at(0, 16 * tile, part, j), near[0], near[1], near[2], near[3]);
        store_tiles<false>(lane.mirrored(16 * tile, part, j), far[0], far[1], far[2], far[3]);
      }
    }
}

/// The inverse transform of this warp's row, in place; `pack` makes two neighboring outputs a word.
template <class P, class Pack>
__device__ inline void outer_inverse(const OuterLane<P>& lane, const uint4* matrices,
                                     const Pack& pack) {
  unsigned b[2][2][P::tiles][4][2];  // [parity][part]
#pragma unroll
  for (int part = 0; part < 2; ++part)
#pragma unroll
    for (int step = 0; step < P::tiles; ++step)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        unsigned near[4], far[4];
        load_columns_of_tiles(near, lane.at(0, 16 * step, part, j));
        load_columns_of_tiles(far, lane.mirrored(16 * step, part, j));
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          b[part][part][step][2 * j + k / 2][k % 2] = add_halves(near[k], far[k]);
          b[1 - part][part][step][2 * j + k / 2][k % 2] = subtract_halves(near[k], far[k]);
        }
      }
  __syncwarp();
#pragma unroll
  for (int parity = 0; parity < 2; ++parity)
#pragma unroll
    for (int tile = 0; tile < P::tiles; ++tile) {
      float sum[4][4] = {};
#pragma unroll
      for (int part = 0; part < 2; ++part)
#pragma unroll
        for (int step = 0; step < P::tiles; ++step) {
          const uint4 m = matrices[matrix_at<P>(parity, part, tile, step)];
          const unsigned a[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
          for (int run = 0; run < 4; ++run)
            multiply_tile_half(sum[run], a, b[parity][part][step][run][0],
                               b[parity][part][step][run][1]);
        }
#pragma unroll
      for (int j = 0; j < 2; ++j)
        store_tiles<false>(lane.at(parity, 16 * tile, 0, j), pack(sum[2 * j][0], sum[2 * j][1]),
                           pack(sum[2 * j][2], sum[2 * j][3]),
                           pack(sum[2 * j + 1][0], sum[2 * j + 1][1]),
                           pack(sum[2 * j + 1][2], sum[2 * j + 1][3]));
    }
}

/// Address of run i·32 + lane of this warp's row, in the order of memory.
template <class P>
__device__ inline unsigned run_address(unsigned data, int i) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % P::rows;
  const int run = lane % 4, parity = lane / 4 % 2, line = lane / 8;
  const unsigned turn = (row ^ line ^ 2 * run ^ parity) << 4;
  return data + (4 * i + line + P::half * parity) * 1024 + run * 128 +
         (turn ^ ((4 * (i & 1)) << 4));
}

}  // namespace ssm::cuda::device
