// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "convolution/right_angle_tables.cuh"

namespace ssm::cuda::device {

// Sequences longer than a block's transform are `Rows` rows of P::length positions, t = j·length +
// n. A transform over j, through device memory,
//   X_p[n] = Σ_j x[j, n]·exp(−2πi·j·(p + 1/4)/Rows)
// leaves for every p a product of polynomials in n modulo z^length − exp(2πi·(p + 1/4)/Rows): a
// right-angle transform of complex points with κ = (p + 1/4)/Rows. Rows p and p + Rows/2 share the
// sums over even and over odd j.
//
// An image is such a row as half numbers in the order of shared memory, before the permutation
// against bank conflicts.

template <int Rows>
struct OuterMatrix {
  float c[Rows / 2][Rows], s[Rows / 2][Rows];  // [p][j], cos and sin
};
template <int Rows>
OuterMatrix<Rows> outer_matrix(double gain) {
  OuterMatrix<Rows> m;
  for (int p = 0; p < Rows / 2; ++p)
    for (int j = 0; j < Rows; ++j) {
      const double turn = 2 * 3.14159265358979323846 * j * (p + 0.25) / Rows;
      m.c[p][j] = static_cast<float>(gain * std::cos(turn));
      m.s[p][j] = static_cast<float>(gain * std::sin(turn));
    }
  return m;
}

/// Largest and summed magnitudes of sequences as powers of two: {to the range of half, its inverse}
/// of the largest magnitude, and the same that make the sum less than 1.
struct SequenceScale {
  float2 largest, sum;
};

template <class T>
struct ScaleLaunch {
  Sequences<const T> x, gate;
  const float* skip;  // added to position 0, by channel, or null
  int length;
  SequenceScale* scales;  // [D, B]
};

/// Scales of channel blockIdx.x, sequence blockIdx.y.
template <class T>
__global__ void __launch_bounds__(1024) measure_sequences(const ScaleLaunch<T> launch) {
  __shared__ float scratch[2][32];
  const T* const x =
      launch.x.data + blockIdx.y * launch.x.batch_stride + blockIdx.x * launch.x.channel_stride;
  const T* const gate = launch.gate.data == nullptr
                            ? nullptr
                            : launch.gate.data + blockIdx.y * launch.gate.batch_stride +
                                  blockIdx.x * launch.gate.channel_stride;
  const bool aligned = is_aligned(x) && is_aligned(gate);
  float largest = 0.f, sum = 0.f;
#pragma unroll 4
  for (int at = threadIdx.x * 8; at < launch.length; at += 8192) {
    const int count = launch.length - at;
    float v[8];
    load_eight(x + at, count, aligned && count >= 8, v);
    if (gate != nullptr) {
      float factor[8];
      load_eight(gate + at, count, aligned && count >= 8, factor);
#pragma unroll
      for (int c = 0; c < 8; ++c) v[c] *= factor[c];
    }
    if (at == 0 && launch.skip != nullptr) v[0] += launch.skip[blockIdx.x];
#pragma unroll
    for (int c = 0; c < 8; ++c) largest = fmaxf(largest, fabsf(v[c])), sum += fabsf(v[c]);
  }
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lane));
    sum += __shfl_xor_sync(~0u, sum, lane);
  }
  if (threadIdx.x % 32 == 0)
    scratch[0][threadIdx.x / 32] = largest, scratch[1][threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < 32; ++w) largest = fmaxf(largest, scratch[0][w]), sum += scratch[1][w];
  launch.scales[blockIdx.x * gridDim.y + blockIdx.y] = {range_powers(largest),
                                                        range_powers(16.f * sum)};
}

/// Half number of position n and the next in an image, real part; the imaginary part is P::N3 on.
template <class P>
__device__ inline int image_at(int n) {
  const int s1 = slot_of<32>(n / P::columns), s2 = slot_of<P::N2>(n % P::columns / P::N3);
  return (s1 * P::N2 + s2) * 2 * P::N3 + n % P::N3;
}

/// Two neighboring positions as floats, missing ones zero; paired: they are one aligned word.
template <class T>
__device__ inline float2 load_pair(const T* p, int count, bool paired) {
  if (paired && count >= 2) {
    if constexpr (sizeof(T) == 4) {
      return __ldg(reinterpret_cast<const float2*>(p));
    } else {
      const unsigned word = __ldg(reinterpret_cast<const unsigned*>(p));
      return {to_float(T::from_bits(static_cast<unsigned short>(word))),
              to_float(T::from_bits(static_cast<unsigned short>(word >> 16)))};
    }
  }
  return {count > 0 ? to_float(p[0]) : 0.f, count > 1 ? to_float(p[1]) : 0.f};
}
template <class T>
__device__ inline void store_pair(T* p, int count, bool paired, float2 v) {
  T low, high;
  from_float(v.x, low);
  from_float(v.y, high);
  if (paired && count >= 2) {
    if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<float2*>(p) = v;
    } else {
      *reinterpret_cast<unsigned*>(p) = unsigned(low.bits()) | unsigned(high.bits()) << 16;
    }
    return;
  }
  if (count > 0) p[0] = low;
  if (count > 1) p[1] = high;
}
template <class T>
__device__ inline bool is_paired(const T* p) {
  return (reinterpret_cast<unsigned long long>(p) & (2 * sizeof(T) - 1)) == 0;
}

template <class T, int Rows>
struct OuterLaunch {
  Sequences<const T> x, gate;
  const float* skip;
  int length, batch;
  const SequenceScale* scales;  // [D, B]
  char* images;                 // [D, B, Rows, P::spectrum_bytes]
  OuterMatrix<Rows> matrix;
};

/// Images of sequence blockIdx.y, channels first; a thread has two neighboring positions. Reversed:
/// time runs backwards, from the end of the transform.
template <class P, class T, int Rows, bool Reversed>
__global__ void __launch_bounds__(128) outer_stage(const OuterLaunch<T, Rows> launch) {
  const int n = 2 * (blockIdx.x * 128 + threadIdx.x);
  const int channel = blockIdx.y / launch.batch, b = blockIdx.y % launch.batch;
  const auto of = [&](const Sequences<const T>& tensor) {
    return tensor.data + b * tensor.batch_stride + channel * tensor.channel_stride;
  };
  const T* const x = of(launch.x);
  const T* const gate = launch.gate.data == nullptr ? nullptr : of(launch.gate);
  const bool paired = is_paired(x), gate_paired = is_paired(gate);
  const float scale = launch.scales[blockIdx.y].largest.x;
  float2 v[Rows];
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
    const int t = j * P::length + n, at = Reversed ? Rows * P::length - 2 - t : t;
    v[j] = load_pair(x + at, launch.length - at, paired);
  }
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
    const int t = j * P::length + n, at = Reversed ? Rows * P::length - 2 - t : t;
    if (gate != nullptr) {
      const float2 factor = load_pair(gate + at, launch.length - at, gate_paired);
      v[j] = {v[j].x * factor.x, v[j].y * factor.y};
    }
    if (Reversed) v[j] = {v[j].y, v[j].x};
  }
  if (n == 0 && launch.skip != nullptr) v[0].x += launch.skip[channel];
#pragma unroll
  for (int j = 0; j < Rows; ++j) v[j] = {scale * v[j].x, scale * v[j].y};
  unsigned* const out = reinterpret_cast<unsigned*>(
      launch.images + blockIdx.y * (Rows * static_cast<std::size_t>(P::spectrum_bytes)) +
      2 * image_at<P>(n));
#pragma unroll
  for (int p = 0; p < Rows / 2; ++p) {
    float2 re[2] = {}, im[2] = {};  // over even and over odd j
#pragma unroll
    for (int j = 0; j < Rows; ++j) {
      const float c = launch.matrix.c[p][j], s = -launch.matrix.s[p][j];
      re[j % 2] = {fmaf(c, v[j].x, re[j % 2].x), fmaf(c, v[j].y, re[j % 2].y)};
      im[j % 2] = {fmaf(s, v[j].x, im[j % 2].x), fmaf(s, v[j].y, im[j % 2].y)};
    }
    unsigned* const near = out + p * P::length;
    unsigned* const far = near + Rows / 2 * P::length;
    near[0] = pack_half(re[0].x + re[1].x, re[0].y + re[1].y);
    near[P::N3 / 2] = pack_half(im[0].x + im[1].x, im[0].y + im[1].y);
    far[0] = pack_half(re[0].x - re[1].x, re[0].y - re[1].y);
    far[P::N3 / 2] = pack_half(im[0].x - im[1].x, im[0].y - im[1].y);
  }
}

/// What becomes of the inverse v of a sequence: y = gate · v, and second = second_gate · v if there
/// is one. Floats, which are kernels' gradients, are added to y, and first_[channel] += v[0].
template <class T, int Rows>
struct OuterInverseLaunch {
  Sequences<const T> gate, second_gate;
  Sequences<T> y, second;
  int length, batch;
  const SequenceScale* scales;         // [D, B]
  const SequenceScale* kernel_scales;  // [D], or null: 1
  const char* images;
  float gain;  // by which to multiply
  OuterMatrix<Rows> matrix;
  float* first_ = nullptr;
};

template <class P, class T, int Rows, bool Reversed>
__global__ void __launch_bounds__(128)
    outer_inverse_stage(const OuterInverseLaunch<T, Rows> launch) {
  const int n = 2 * (blockIdx.x * 128 + threadIdx.x);
  const int channel = blockIdx.y / launch.batch, b = blockIdx.y % launch.batch;
  const unsigned* const in = reinterpret_cast<const unsigned*>(
      launch.images + blockIdx.y * (Rows * static_cast<std::size_t>(P::spectrum_bytes)) +
      2 * image_at<P>(n));
  float2 v[Rows] = {};
#pragma unroll
  for (int first = 0; first < Rows / 2; first += 4) {
    constexpr int some = Rows / 2 < 4 ? Rows / 2 : 4;
    unsigned raw[some][4];
#pragma unroll
    for (int i = 0; i < some; ++i) {
      const unsigned* const near = in + (first + i) * P::length;
      const unsigned* const far = near + Rows / 2 * P::length;
      raw[i][0] = __ldg(near), raw[i][1] = __ldg(near + P::N3 / 2);
      raw[i][2] = __ldg(far), raw[i][3] = __ldg(far + P::N3 / 2);
    }
#pragma unroll
    for (int i = 0; i < some; ++i) {
      const float2 re = unpack_half(raw[i][0]), im = unpack_half(raw[i][1]);
      const float2 far_re = unpack_half(raw[i][2]), far_im = unpack_half(raw[i][3]);
      const float2 even_re{re.x + far_re.x, re.y + far_re.y},
          even_im{im.x + far_im.x, im.y + far_im.y}, odd_re{re.x - far_re.x, re.y - far_re.y},
          odd_im{im.x - far_im.x, im.y - far_im.y};
#pragma unroll
      for (int j = 0; j < Rows; ++j) {
        const float c = launch.matrix.c[first + i][j], s = -launch.matrix.s[first + i][j];
        const float2 a = j % 2 == 0 ? even_re : odd_re, d = j % 2 == 0 ? even_im : odd_im;
        v[j] = {fmaf(s, d.x, fmaf(c, a.x, v[j].x)), fmaf(s, d.y, fmaf(c, a.y, v[j].y))};
      }
    }
  }
  float unscale = launch.gain * launch.scales[blockIdx.y].largest.y;
  if (launch.kernel_scales != nullptr) unscale *= launch.kernel_scales[channel].sum.y;
  const auto of = [&](const auto& tensor) {
    return tensor.data == nullptr
               ? nullptr
               : tensor.data + b * tensor.batch_stride + channel * tensor.channel_stride;
  };
  const auto write = [&](T* y, const T* gate) {
    const bool paired = is_paired(y), gate_paired = is_paired(gate);
#pragma unroll
    for (int j = 0; j < Rows; ++j) {
      const int t = j * P::length + n, at = Reversed ? Rows * P::length - 2 - t : t;
      float2 out{unscale * v[j].x, unscale * v[j].y};
      if (Reversed) out = {out.y, out.x};
      if (gate != nullptr) {
        const float2 factor = load_pair(gate + at, launch.length - at, gate_paired);
        out = {out.x * factor.x, out.y * factor.y};
      }
      if constexpr (sizeof(T) == 4) {
        if (launch.first_ != nullptr && at == 0) launch.first_[channel] += out.x;
        const float2 sum = load_pair<T>(y + at, launch.length - at, paired);
        out = {out.x + sum.x, out.y + sum.y};
      }
      store_pair(y + at, launch.length - at, paired, out);
    }
  };
  write(of(launch.y), of(launch.gate));
  if (launch.second.data != nullptr) write(of(launch.second), of(launch.second_gate));
}

}  // namespace ssm::cuda::device
