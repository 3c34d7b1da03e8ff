// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/shared_tiles.cuh"

namespace ssm::cuda::device {

// Causal convolution by a transform of as many complex points as a sequence has positions. The
// product of two real polynomials modulo z^M − i has the wanted half of the product as real part
// and the rest, which would wrap around, as imaginary part. With κ = 1/4,
//   X[k] = Σ_n x[n]·exp(−2πi·n·(k + κ)/M)
// are the values at the roots of z^M − i. n = (n1·N2 + n2)·N3 + n3 goes to k = k1 + 32·k2 +
// 32·N2·k3 in three stages, in place:
//   over n1, times exp(−2πi·n1·(k1 + κ)/32)                     one matrix
//   over n2, times exp(−2πi·n2·(k1 + κ + 32·k2)/(32·N2))        a matrix for every k1
//   over n3, times exp(−2πi·n3·(k1 + κ + 32·k2)/M)·exp(−2πi·n3·k3/N3)
// Real and imaginary parts are separate operands of half numbers. A stage of 32 points is two
// products of 16: outputs k and k + 16 of the first two share the sums over even and over odd
// inputs, even and odd outputs of the third the sums and differences of inputs n and n + 16.
//
// A warp has 64 columns (n2, n3) of a sequence in the first stage and whole k1 of all sequences in
// the others, whose last forward stage, filter and first inverse stage stay in registers. The
// inverse has the transposed matrices conjugated, read from the same tiles.
//
// Rows of complex points of a longer sequence (outer_stage.cuh) have other κ.

template <int N2_, int N3_, int Groups_>
struct RightAnglePlan {
  static constexpr int N1 = 32, N2 = N2_, N3 = N3_, length = N1 * N2 * N3, columns = N2 * N3;
  static constexpr int Groups = Groups_;  // sequences of a block, of one channel
  static constexpr int warps = columns / 64, group_threads = 32 * warps;  // of a sequence
  static constexpr int threads = Groups * group_threads, all_warps = Groups * warps;
  static constexpr int slabs = N1 / all_warps;  // k1 of a warp
  static constexpr int blocks_per_multiprocessor = threads == 512 ? 1 : threads == 256 ? 2 : 3;

  // Tables: matrices of the first stage [parity][part], of the second [k1][parity][part], of the
  // third [set of outputs][part], each 16 × 16 in four tiles of 8 × 8.
  static constexpr int first_matrices = 4, second_matrices = N2 / 8, third_matrices = N3 / 8;
  static constexpr int second_at = first_matrices * 512;
  static constexpr int third_at = second_at + N1 * second_matrices * 512;
  static constexpr int matrix_bytes = third_at + third_matrices * 512;
  // Twiddles of the third stage, and spectra: [k1][tile of 16 k2][quad][lane], words as a lane
  // holds them of a left operand: quads are (step of 16, part).
  static constexpr int tiles = N2 / 16, quads = N3 / 8;
  static constexpr int twiddle_bytes = length * 4, table_bytes = matrix_bytes + twiddle_bytes;
  static constexpr int spectrum_bytes = length * 4;

  static constexpr int group_bytes = length * 4, matrices_at = Groups * group_bytes;
  static constexpr int scratch_at = matrices_at + matrix_bytes;
  static constexpr int bytes = scratch_at + 2 * threads / 32 * 4;

  // Gains of the stages over n2 and n3, forward and back alike: with inputs below 16 and spectra of
  // kernels below 1 nothing can leave half's range.
  static constexpr float second_gain = 1.f / 4, third_gain = 1.f / 8;
  static constexpr float gain = second_gain * third_gain;
};

/// Order of n1 and n2 in shared memory: of 32, even ones first.
template <int Radix>
__host__ __device__ constexpr int slot_of(int n) {
  return Radix == 32 ? n / 2 + n % 2 * 16 : n;
}

/// Place of runs of eight n3: 16-byte units [n1 or k1][n2 or k2][part][run], permuted within lines
/// of 128 bytes so that no access of any stage meets a bank twice. line_at is where the units of
/// (s1, s2) begin; data begins at a multiple of 128 bytes, so that a unit's address is the line's
/// with bits of run_bits inverted.
template <class P>
__host__ __device__ constexpr unsigned line_at(int s1, int s2) {
  const int turn = P::N3 == 16   ? (s2 >> 1 & 1) << 1 | (s2 >> 2 & 1)
                   : P::N2 == 16 ? (s2 & 1) << 2 | (s2 >> 1 & 3)
                                 : (s2 & 7) ^ (s2 >> 4) << 2;
  return ((s1 * P::N2 + s2) * (P::N3 / 4) ^ ((s1 ^ turn) & 7)) * 16;
}
template <class P>
__host__ __device__ constexpr unsigned run_bits(int part, int run) {
  return (part * (P::N3 / 8) + run) * 16;
}

// Matrices ----------------------------------------------------------------------------------------

/// A 16 × 16 matrix cos − i·sin as left operands; Transposed: of its transpose.
struct Matrix16 {
  unsigned c[4], s[4];
};
/// The same as right operands: words 2·n and 2·n + 1 are those of columns 8·n …; rows are summed
/// over.
struct Right16 {
  unsigned c[4], s[4];
};
/// Address of this lane's row of the four tiles of a matrix; Transposed: the two off the diagonal
/// in each other's place.
template <bool Transposed>
__device__ inline unsigned matrix_row(unsigned at) {
  const unsigned lane = threadIdx.x % 32;
  return at + 16 * (Transposed ? (lane & 7) | (lane & 8) << 1 | (lane & 16) >> 1 : lane);
}
/// Both parts of a matrix, of which this lane's row is at `row`.
template <class Matrix, bool by_columns>
__device__ inline Matrix load_parts(unsigned row) {
  Matrix m;
  if constexpr (by_columns) {
    load_columns_of_tiles(m.c, row);
    load_columns_of_tiles(m.s, row + 512);
  } else {
    load_rows_of_tiles(m.c, row);
    load_rows_of_tiles(m.s, row + 512);
  }
  return m;
}
template <bool Transposed>
__device__ inline Matrix16 load_left(unsigned at) {
  return load_parts<Matrix16, Transposed>(matrix_row<Transposed>(at));
}
template <bool Transposed>
__device__ inline Right16 load_right(unsigned at) {
  return load_parts<Right16, !Transposed>(matrix_row<Transposed>(at));
}

__device__ inline unsigned negative_halves(unsigned v) { return v ^ 0x80008000u; }

/// re + i·im = (c ∓ i·s)·(x + i·y), the lower sign with Inverse.
template <bool Inverse>
__device__ inline void multiply_complex(float (&re)[4], float (&im)[4], const Matrix16& m,
                                        const unsigned (&x)[2], const unsigned (&y)[2]) {
  const unsigned(&turned)[2] = Inverse ? y : x;
  const unsigned negative[2] = {negative_halves(turned[0]), negative_halves(turned[1])};
#pragma unroll
  for (int k = 0; k < 4; ++k) re[k] = im[k] = 0.f;
  multiply_tile_half(re, m.c, x[0], x[1]);
  multiply_tile_half(im, m.c, y[0], y[1]);
  if constexpr (Inverse) {
    multiply_tile_half(re, m.s, negative[0], negative[1]);
    multiply_tile_half(im, m.s, x[0], x[1]);
  } else {
    multiply_tile_half(re, m.s, y[0], y[1]);
    multiply_tile_half(im, m.s, negative[0], negative[1]);
  }
}
__device__ inline void pack_rows(unsigned (&out)[2], const float (&v)[4]) {
  out[0] = pack_half(v[0], v[1]), out[1] = pack_half(v[2], v[3]);
}

// A stage over 32 or 16 points in eight columns, in place -----------------------------------------

/// `re` and `im`: address of row lane of the 32 of each part.
template <bool Inverse>
__device__ inline void stage_of_32(const Matrix16& even, const Matrix16& odd, unsigned re,
                                   unsigned im) {
  unsigned x[4], y[4];
  load_columns_of_tiles(x, re);
  load_columns_of_tiles(y, im);
  __syncwarp();
  float sum[2][2][4];
  unsigned out[2][2][2];  // [even, odd or their sums][part]
  if constexpr (Inverse) {
    unsigned b[2][2][2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      b[0][0][k] = add_halves(x[k], x[2 + k]), b[1][0][k] = subtract_halves(x[k], x[2 + k]);
      b[0][1][k] = add_halves(y[k], y[2 + k]), b[1][1][k] = subtract_halves(y[k], y[2 + k]);
    }
    multiply_complex<true>(sum[0][0], sum[0][1], even, b[0][0], b[0][1]);
    multiply_complex<true>(sum[1][0], sum[1][1], odd, b[1][0], b[1][1]);
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int parity = 0; parity < 2; ++parity) pack_rows(out[parity][part], sum[parity][part]);
  } else {
    const unsigned xe[2] = {x[0], x[1]}, xo[2] = {x[2], x[3]};
    const unsigned ye[2] = {y[0], y[1]}, yo[2] = {y[2], y[3]};
    multiply_complex<false>(sum[0][0], sum[0][1], even, xe, ye);
    multiply_complex<false>(sum[1][0], sum[1][1], odd, xo, yo);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      unsigned e[2], o[2];
      pack_rows(e, sum[0][part]);
      pack_rows(o, sum[1][part]);
#pragma unroll
      for (int k = 0; k < 2; ++k)
        out[0][part][k] = add_halves(e[k], o[k]), out[1][part][k] = subtract_halves(e[k], o[k]);
    }
  }
  store_tiles<false>(re, out[0][0][0], out[0][0][1], out[1][0][0], out[1][0][1]);
  store_tiles<false>(im, out[0][1][0], out[0][1][1], out[1][1][0], out[1][1][1]);
}

/// `at`: address of row lane % 16 of part lane / 16.
template <bool Inverse>
__device__ inline void stage_of_16(const Matrix16& matrix, unsigned at) {
  unsigned v[4];
  load_columns_of_tiles(v, at);
  __syncwarp();
  const unsigned x[2] = {v[0], v[1]}, y[2] = {v[2], v[3]};
  float re[4], im[4];
  multiply_complex<Inverse>(re, im, matrix, x, y);
  unsigned out[2][2];
  pack_rows(out[0], re);
  pack_rows(out[1], im);
  store_tiles<false>(at, out[0][0], out[0][1], out[1][0], out[1][1]);
}

}  // namespace ssm::cuda::device
