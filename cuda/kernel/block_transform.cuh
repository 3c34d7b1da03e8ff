// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/tensor_core.cuh"

namespace ssm::cuda::device {

// A transform of N = 16·R2·R3 complex points by one block, as three stages of small discrete
// Fourier transforms on tensor cores (half operands, float sums); two real sequences travel as the
// real and imaginary part. Index n = n1·R2·R3 + n2·R3 + n3 goes to frequency k1 + 16·k2 + 16·R2·k3:
//   sum over n1, times W_N^(k1·(n2·R3 + n3)), sum over n2, times W_(R2·R3)^(k2·n3), sum over n3
// One operand register is one complex number, and the sums of a stage are laid out as the operands
// of the next, so that the last forward stage, the filter and the first inverse stage never leave
// registers. Only the first half of the points is input, and only the first half is output: the
// outer stages cost half. Each warp handles 1024 points.

/// Terms 1: half operands, about 1e-3 relative; Terms 2: every operand as a sum of two halves,
/// about 1e-6.
template <int R2_, int R3_, int Terms_>
struct Transform {
  static constexpr int R1 = 16, R2 = R2_, R3 = R3_, Terms = Terms_;
  static constexpr int columns = R2 * R3, points = R1 * columns, length = points / 2;
  static constexpr int warps = points / 1024, threads = 32 * warps;
  static constexpr int step_tiles = R3,
                       last_tiles = R2;  // 16-row tiles of the second and third stage

  /// Packed matrices, in uint4: [pair of output tiles][step of 8 inputs][lane].
  __host__ __device__ static constexpr int words(int inputs, int outputs) {
    return (outputs / 8) * (inputs / 8) * 32;
  }
  static constexpr int first_at = 0, second_at = first_at + words(8, 16),
                       third_at = second_at + words(R2, R2);
  static constexpr int third_back_at = third_at + words(R3, R3),
                       second_back_at = third_back_at + words(R3, R3);
  static constexpr int last_at = second_back_at + words(R2, R2),
                       matrix_words = last_at + words(16, 8);

  static constexpr std::size_t data_bytes = std::size_t{Terms} * points * 4;
  static constexpr std::size_t matrices_bytes = std::size_t{Terms} * matrix_words * 16;
  static constexpr std::size_t root_bytes = (256 + columns) * sizeof(float2);
  static constexpr std::size_t bytes =
      data_bytes + matrices_bytes + root_bytes + 64 * sizeof(float);

  /// Forward gain of the three stages; the inverse has 1/(N·gain). Powers of two that keep the
  /// numbers in range.
  __host__ __device__ static constexpr float stage_gain(int radix) {
    return radix == 8 ? 0.5f : 0.25f;
  }
  static constexpr float gain = stage_gain(16) * stage_gain(R2) * stage_gain(R3);
};

/// Word of point (k1, n2, n3) in shared memory; the swizzle makes every stage's accesses free of
/// bank conflicts.
///   address(k1 + 4·i, n2, n3) = address(k1, n2, n3) + 4·i·columns
///   address(k1, n2 + 8·i, n3) = address(k1, n2, n3) + 8·i·R3
///   address(k1, n2, n3 ^ i)   = address(k1, n2, n3) ^ i
template <class P>
__host__ __device__ constexpr int point_address(int k1, int n2, int n3) {
  int unit = (n2 >> 2) & 1;
  if (P::R3 == 32) unit |= (n2 & 3) << 1;
  if (P::R3 == 16) unit |= n2 & 2;
  unit ^= (k1 & 1) | ((k1 & 2) << 1);
  return (k1 * P::columns + n2 * P::R3 + n3) ^ (unit << 2);
}

/// A complex number as `Terms` half pairs.
template <int Terms>
__device__ inline void split_half(float re, float im, unsigned (&pairs)[Terms]) {
  pairs[0] = pack_half(re, im);
  if constexpr (Terms == 2) {
    const float2 v = unpack_half(pairs[0]);
    pairs[1] = pack_half(re - v.x, im - v.y);
  }
}

/// What the stages share: points and matrices in shared memory, and roots of unity: W_N^(128·i),
/// W_N^i, W_columns^i.
template <class P>
struct Stages {
  unsigned* data;        // [Terms, points]
  const uint4* matrix;   // [Terms, matrix_words]
  const float2* coarse;  // [128]
  const float2* fine;    // [128]
  const float2* inner;   // [columns]  W_columns^i
  float* scratch;        // [64]

  /// exp(−2πi·m/N)
  __device__ float2 root(int m) const { return multiply(coarse[(m >> 7) & 127], fine[m & 127]); }
};

/// Fills the tables of a block in `shared`, P::bytes of it. Ends with a barrier.
template <class P>
__device__ inline Stages<P> make_stages(char* shared) {
  unsigned* const data = reinterpret_cast<unsigned*>(shared);
  unsigned* const matrix = data + P::Terms * P::points;
  float2* const roots = reinterpret_cast<float2*>(matrix + P::Terms * P::matrix_words * 4);
  for (int i = threadIdx.x; i < 256 + P::columns; i += P::threads) {
    const float turn = i < 128   ? i * 128.f / P::points
                       : i < 256 ? (i - 128.f) / P::points
                                 : (i - 256.f) / P::columns;
    sincospif(-2.f * turn, &roots[i].y, &roots[i].x);
  }
  __shared__ float2 turn[32];  // W_32^i: the roots of every radix are among them
  if (threadIdx.x < 32)
    sincospif(-2.f * threadIdx.x / 32, &turn[threadIdx.x].y, &turn[threadIdx.x].x);
  __syncthreads();
  const auto fill = [&](int at, int inputs, int outputs, int radix, float sign, float gain) {
    const int steps = inputs / 8;
#pragma unroll 1
    for (int i = threadIdx.x; i < outputs / 8 * steps * 128; i += P::threads) {
      const int reg = i % 4, lane = i / 4 % 32, step = i / 128 % steps, pair = i / (128 * steps);
      const int in = 8 * step + lane % 4 + 4 * (reg % 2), column = lane / 4;
      const int out = 4 * (2 * pair + reg / 2) + column / 2;
      float2 w = turn[in * out % radix * (32 / radix)];
      w = {gain * w.x, gain * sign * w.y};
      unsigned pairs[P::Terms];
      if (column % 2 == 0) {
        split_half(w.x, -w.y, pairs);
      } else {
        split_half(w.y, w.x, pairs);
      }
      for (int t = 0; t < P::Terms; ++t) matrix[(t * P::matrix_words + at) * 4 + i] = pairs[t];
    }
  };
  const auto back = [](int radix) { return 1.f / (radix * P::stage_gain(radix)); };
  fill(P::first_at, 8, 16, 16, 1.f, P::stage_gain(16));
  fill(P::second_at, P::R2, P::R2, P::R2, 1.f, P::stage_gain(P::R2));
  fill(P::third_at, P::R3, P::R3, P::R3, 1.f, P::stage_gain(P::R3));
  fill(P::third_back_at, P::R3, P::R3, P::R3, -1.f, back(P::R3));
  fill(P::second_back_at, P::R2, P::R2, P::R2, -1.f, back(P::R2));
  fill(P::last_at, 16, 8, 16, -1.f, back(16));
  __syncthreads();
  return {data,        reinterpret_cast<const uint4*>(matrix),
          roots,       roots + 128,
          roots + 256, reinterpret_cast<float*>(roots + 256 + P::columns)};
}

/// sum[tiles] += a[steps] · matrix, for the pair `pair` of output tiles.
template <class P, int Steps>
__device__ inline void multiply_points(float (&even)[4], float (&odd)[4],
                                       const unsigned (&a)[P::Terms][Steps][4], const uint4* matrix,
                                       int pair) {
#pragma unroll
  for (int step = 0; step < Steps; ++step)
#pragma unroll
    for (int j = 0; j < P::Terms; ++j) {
      const uint4 b = matrix[j * P::matrix_words + (pair * Steps + step) * 32 + threadIdx.x % 32];
#pragma unroll
      for (int i = 0; i + j < P::Terms; ++i) {
        multiply_tile_half(even, a[i][step], b.x, b.y);
        multiply_tile_half(odd, a[i][step], b.z, b.w);
      }
    }
}

/// First stage: eight neighboring columns of a lane, for inputs n1 = q and q + 4, as operands
/// [t][4]; writes the twiddled sums to shared memory. Followed by a barrier of the caller.
template <class P>
__device__ inline void first_stage(const Stages<P>& s, const unsigned (&a)[P::Terms][4][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int column = 64 * warp + 8 * g, n2 = column / P::R3, n3 = column % P::R3;
  const int base = point_address<P>(q, n2, n3);
  const float2 stride = s.root(4 * column);
  float2 seed = s.root(q * column);
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    float sum[2][4][4] = {};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      unsigned operand[P::Terms][1][4];
#pragma unroll
      for (int i = 0; i < P::Terms; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) operand[i][0][k] = a[i][t][k];
      multiply_points<P, 1>(sum[0][t], sum[1][t], operand, s.matrix + P::first_at, pair);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int k1 = 4 * (2 * pair + h) + q;
      const float2 step = s.fine[k1];
      float2 w = seed;
      unsigned out[P::Terms][8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float2 v =
            multiply(float2{sum[h][c / 2][2 * (c % 2)], sum[h][c / 2][2 * (c % 2) + 1]}, w);
        unsigned pairs[P::Terms];
        split_half(v.x, v.y, pairs);
#pragma unroll
        for (int i = 0; i < P::Terms; ++i) out[i][c] = pairs[i];
        w = multiply(w, step);
      }
      seed = multiply(seed, stride);
#pragma unroll
      for (int i = 0; i < P::Terms; ++i)
#pragma unroll
        for (int c = 0; c < 8; c += 4)
          *reinterpret_cast<uint4*>(s.data + i * P::points + (base ^ c) + (k1 - q) * P::columns) = {
              out[i][c], out[i][c + 1], out[i][c + 2], out[i][c + 3]};
    }
  }
}

/// Second stage, either way: sums over n2 for rows (k1, n3) of tile `tile`, in place. Forward
/// twiddles the sums by W_columns^(k2·n3); inverse by the conjugate of W_N^(k1·(n2·R3 + n3)), k1
/// the row's.
template <class P, bool Inverse>
__device__ inline void second_stage(const Stages<P>& s, int tile) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  constexpr int steps = P::R2 / 8;
  unsigned a[P::Terms][steps][4];
  int k1[2], n3[2], base[2][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = 16 * tile + g + 8 * half;
    k1[half] = row / P::R3, n3[half] = row % P::R3;
    base[half][0] = point_address<P>(k1[half], q, n3[half]);
    base[half][1] = point_address<P>(k1[half], q + 4, n3[half]);
#pragma unroll
    for (int i = 0; i < P::Terms; ++i)
#pragma unroll
      for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int k = 0; k < 2; ++k)
          a[i][step][half + 2 * k] = s.data[i * P::points + base[half][k] + 8 * step * P::R3];
  }
  float2 w[2], stride[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (Inverse) {
      w[half] = conjugate(s.root(k1[half] * (q * P::R3 + n3[half])));
      stride[half] = conjugate(s.root(4 * k1[half] * P::R3));
    } else {
      w[half] = s.inner[q * n3[half]];
      stride[half] = s.inner[4 * n3[half]];
    }
  }
#pragma unroll
  for (int pair = 0; pair < P::R2 / 8; ++pair) {
    float sum[2][4] = {};
    multiply_points<P, steps>(sum[0], sum[1], a,
                              s.matrix + (Inverse ? P::second_back_at : P::second_at), pair);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 v = multiply(float2{sum[h][2 * half], sum[h][2 * half + 1]}, w[half]);
        w[half] = multiply(w[half], stride[half]);
        unsigned pairs[P::Terms];
        split_half(v.x, v.y, pairs);
#pragma unroll
        for (int i = 0; i < P::Terms; ++i)
          s.data[i * P::points + base[half][h] + 8 * pair * P::R3] = pairs[i];
      }
  }
}

/// Third forward stage of tile `tile`, rows (k1, k2): sum[j] holds frequencies k3 = 4·j + q of rows
/// g and g + 8.
template <class P>
__device__ inline void third_stage(const Stages<P>& s, int tile, float (&sum)[P::R3 / 4][4]) {
  const int lane = threadIdx.x % 32, line = lane % 8, which = lane / 8;
  constexpr int steps = P::R3 / 8;
  unsigned a[P::Terms][steps][4];
  const int row = 16 * tile + line + 8 * (which % 2);
  const int base = point_address<P>(row / P::R2, row % P::R2, 4 * (which / 2));
#pragma unroll
  for (int i = 0; i < P::Terms; ++i)
#pragma unroll
    for (int step = 0; step < steps; ++step)
      load_tiles(a[i][step], s.data + i * P::points + (base ^ (8 * step)));
#pragma unroll
  for (int pair = 0; pair < P::R3 / 8; ++pair) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[2 * pair][k] = sum[2 * pair + 1][k] = 0.f;
    multiply_points<P, steps>(sum[2 * pair], sum[2 * pair + 1], a, s.matrix + P::third_at, pair);
  }
}

/// First inverse stage of tile `tile`: frequencies `sum`, laid out as third_stage leaves them, back
/// to n3, twiddled by the conjugate of W_columns^(k2·n3), to shared memory.
template <class P>
__device__ inline void third_stage_back(const Stages<P>& s, int tile,
                                        const float (&sum)[P::R3 / 4][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  constexpr int steps = P::R3 / 8;
  __syncwarp();  // the tile is overwritten: every lane has read what it needs of it
  unsigned a[P::Terms][steps][4];
#pragma unroll
  for (int j = 0; j < P::R3 / 4; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned pairs[P::Terms];
      split_half(sum[j][2 * half], sum[j][2 * half + 1], pairs);
#pragma unroll
      for (int i = 0; i < P::Terms; ++i) a[i][j / 2][half + 2 * (j % 2)] = pairs[i];
    }
  float2 w[2], stride[2];
  int base[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = 16 * tile + g + 8 * half, k2 = row % P::R2;
    base[half] = point_address<P>(row / P::R2, k2, q);
    w[half] = conjugate(s.inner[k2 * q]);
    stride[half] = conjugate(s.inner[4 * k2]);
  }
#pragma unroll
  for (int pair = 0; pair < P::R3 / 8; ++pair) {
    float out[2][4] = {};
    multiply_points<P, steps>(out[0], out[1], a, s.matrix + P::third_back_at, pair);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 v = multiply(float2{out[h][2 * half], out[h][2 * half + 1]}, w[half]);
        w[half] = multiply(w[half], stride[half]);
        unsigned pairs[P::Terms];
        split_half(v.x, v.y, pairs);
#pragma unroll
        for (int i = 0; i < P::Terms; ++i)
          s.data[i * P::points + (base[half] ^ (8 * pair + 4 * h))] = pairs[i];
      }
  }
}

/// Last inverse stage: out[j][c] is the complex output at position
/// (4·j + q)·columns + 64·warp + 8·g + c.
template <class P>
__device__ inline void last_stage(const Stages<P>& s, float2 (&out)[2][8]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int column = 64 * warp + 8 * g, base = point_address<P>(q, column / P::R3, column % P::R3);
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    unsigned a[P::Terms][2][4];
#pragma unroll
    for (int i = 0; i < P::Terms; ++i)
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const uint2 two = *reinterpret_cast<const uint2*>(
              s.data + i * P::points + (base ^ (2 * t)) + (8 * step + 4 * k) * P::columns);
          a[i][step][2 * k] = two.x, a[i][step][2 * k + 1] = two.y;
        }
    float sum[2][4] = {};
    multiply_points<P, 2>(sum[0], sum[1], a, s.matrix + P::last_at, 0);
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) out[j][2 * t + h] = {sum[j][2 * h], sum[j][2 * h + 1]};
  }
}

}  // namespace ssm::cuda::device
