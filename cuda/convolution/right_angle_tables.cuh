// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/negacyclic_rows.cuh"
#include "convolution/right_angle_stages.cuh"

namespace ssm::cuda::device {

/// The tables of row blockIdx.y of `rows`, κ = (row + 1/4)/rows; first_gain is the first stage's.
template <class P>
__global__ void make_right_angle_tables(char* tables, int rows, float first_gain) {
  char* const out = tables + blockIdx.y * static_cast<std::size_t>(P::table_bytes);
  const float kappa = (blockIdx.y + 0.25f) / rows;
  const auto root = [](float turn, float gain) {
    float2 w;
    sincospif(2.f * turn, &w.y, &w.x);
    return float2{gain * w.x, gain * w.y};
  };
  const int stride = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
  for (int i = first; i < P::matrix_bytes / 2; i += stride) {
    const int matrix = i / 256, tile = i / 64 % 4;
    const int row = tile % 2 * 8 + i / 8 % 8, column = tile / 2 * 8 + i % 8;
    float turn, gain;
    if (matrix < P::first_matrices) {
      turn = (2 * column + matrix / 2) * (row + kappa) / 32, gain = first_gain;
    } else if (const int at = matrix - P::first_matrices; at < P::N1 * P::second_matrices) {
      const int n2 = P::N2 == 32 ? 2 * column + at / 2 % 2 : column, k1 = at / P::second_matrices;
      turn = n2 * (k1 + kappa + 32 * row) / (32 * P::N2), gain = P::second_gain;
    } else {
      const int set = (matrix - P::first_matrices - P::N1 * P::second_matrices) / 2;
      const int k3 = P::N3 == 32 ? 2 * column + set : column;
      turn = static_cast<float>(row * k3) / P::N3, gain = P::third_gain;
    }
    const float2 w = root(turn, gain);
    reinterpret_cast<__half*>(out)[i] = __float2half_rn(matrix % 2 == 0 ? w.x : w.y);
  }
  unsigned* const twiddles = reinterpret_cast<unsigned*>(out + P::matrix_bytes);
  for (int i = first; i < P::length; i += stride) {
    const int word = i % 4, lane = i / 4 % 32, quad = i / 128 % P::quads;
    const int tile = i / 128 / P::quads % P::tiles, k1 = i / 128 / P::quads / P::tiles;
    const int k2 = 16 * tile + lane / 4 + 8 * (word % 2);
    const int n3 = 16 * (quad / 2) + 2 * (lane % 4) + 8 * (word / 2);
    const float m = (k1 + kappa + 32 * k2) / P::length;
    const float2 a = root(n3 * m, 1.f), b = root((n3 + 1) * m, 1.f);
    twiddles[i] = quad % 2 == 0 ? pack_half(a.x, b.x) : pack_half(-a.y, -b.y);
  }
}

/// Copies a row's matrices to shared memory. Ends with a barrier.
template <class P>
__device__ inline RightAngleStages<P> right_angle_stages(char* shared, const char* tables) {
  const unsigned base = shared_address(shared);
  for (int i = threadIdx.x; i < P::matrix_bytes / 16; i += P::threads)
    store_run(base + P::matrices_at + i * 16, __ldg(reinterpret_cast<const uint4*>(tables) + i));
  __syncthreads();
  return {base, base + P::matrices_at, reinterpret_cast<const uint4*>(tables + P::matrix_bytes)};
}

/// The positions that a lane reads and writes of a sequence: eight runs of eight, of 64 columns a
/// warp. Reversed: time runs backwards, from the end of the transform.
template <class P, bool Reversed>
struct LaneRuns {
  static constexpr int runs = 8;
  int first, left;  // left: positions of the sequence

  __device__ explicit LaneRuns(int positions) : left(positions) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % P::warps;
    first = lane / 8 * P::columns + 64 * warp + lane % 8 * 8;
    if (Reversed) first = P::length - 8 - first;
  }
  /// Position in memory of run i.
  __device__ int at(int i) const {
    return Reversed ? first - 4 * P::columns * i : first + 4 * P::columns * i;
  }
  /// Its address in shared memory, as inputs of the first stage.
  __device__ static unsigned address(unsigned data, int i) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % P::warps;
    const int column = 64 * warp + lane % 8 * 8;
    // Runs of n1 = lane/8 + 4·i, which is 2·i slots on.
    const unsigned first =
        data + line_at<P>(slot_of<32>(lane / 8), slot_of<P::N2>(column / P::N3)) ^
        run_bits<P>(0, column % P::N3 / 8);
    return (first ^ (2 * i & 7) * 16) + 2 * i * P::columns * 4;
  }
  /// The runs as they lie in memory, missing positions zero. `whole`: all are whole or missing, and
  /// aligned.
  __device__ void load(uint4 (&raw)[runs], const BFloat16* x, bool whole) const {
#pragma unroll
    for (int i = 0; i < runs; ++i) {
      raw[i] = {0u, 0u, 0u, 0u};
      if (whole) {
        if (at(i) < left) raw[i] = __ldg(reinterpret_cast<const uint4*>(x + at(i)));
      } else {
        uint4 one[1];
        load_guarded(x + at(i), left - at(i), one);
        raw[i] = one[0];
      }
    }
  }
  /// Asks for this warp's lines, of 64 positions, to be brought to the L2 cache.
  __device__ void prefetch_lines(const BFloat16* x) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % P::warps;
    const int t = lane * P::columns + 64 * warp, line = Reversed ? P::length - 64 - t : t;
    if (line < left) prefetch(x + line);
  }
  /// scale · v, v of run i by get(i, v), to shared memory.
  template <class Get>
  __device__ static void store_halves(unsigned data, const Get& get, float scale) {
#pragma unroll
    for (int i = 0; i < runs; ++i) {
      float v[8];
      get(i, v);
      unsigned word[4];
#pragma unroll
      for (int c = 0; c < 4; ++c)
        word[c] = Reversed ? pack_half(scale * v[7 - 2 * c], scale * v[6 - 2 * c])
                           : pack_half(scale * v[2 * c], scale * v[2 * c + 1]);
      store_run(address(data, i), {word[0], word[1], word[2], word[3]});
    }
    __syncwarp();
  }
};

/// The runs of gate · x as they lie in memory; products are made anew whenever they are needed,
/// which takes fewer registers than to keep them.
template <bool Gated>
struct GatedRuns {
  static constexpr int runs = 8;
  uint4 x[runs], gate[Gated ? runs : 1];
  bool has_gate;

  /// From the gate, which may be null.
  template <class Runs>
  __device__ void load_gate(const Runs& lane, const BFloat16* from, bool whole) {
    has_gate = from != nullptr;
    if constexpr (Gated)
      if (has_gate) lane.load(gate, from, whole);
  }
  __device__ void operator()(int i, float (&v)[8]) const {
    widen<BFloat16>({x[i]}, v);
    if constexpr (Gated) {
      if (!has_gate) return;
      float factor[8];
      widen<BFloat16>({gate[i]}, factor);
#pragma unroll
      for (int c = 0; c < 8; ++c) v[c] *= factor[c];
    }
  }
  __device__ float largest() const {
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < runs; ++i) {
      float v[8];
      (*this)(i, v);
#pragma unroll
      for (int c = 0; c < 8; ++c) largest = fmaxf(largest, fabsf(v[c]));
    }
    return largest;
  }
};

/// Sum or largest of the numbers that sequence_magnitude left of a sequence's warps.
template <bool Sum, class P>
__device__ inline float magnitude_of(const float* scratch, int group) {
  const float* const of = scratch + group * P::warps;
  float v = of[0];
#pragma unroll
  for (int w = 1; w < P::warps; ++w) v = Sum ? v + of[w] : fmaxf(v, of[w]);
  return v;
}
/// Sum or largest of a warp's numbers over its sequence; scratch: a float a warp. A barrier.
template <bool Sum, class P>
__device__ inline float sequence_magnitude(float v, float* scratch) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const float other = __shfl_xor_sync(~0u, v, lane);
    v = Sum ? v + other : fmaxf(v, other);
  }
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  return magnitude_of<Sum, P>(scratch, RightAngleStages<P>::group());
}

struct KernelTransformLaunch {
  const float* kernel;  // [D, pitch]
  const float* skip;    // [D] or null: added to the first tap
  int pitch, taps, channels;
  const char* tables;
  char* spectra;   // [D, P::spectrum_bytes]
  float* unscale;  // [D]
};

/// Spectra of kernels, scaled so that magnitudes sum to less than 1.
template <class P>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    transform_kernels(const KernelTransformLaunch launch) {
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(aligned_shared, launch.tables);
  float* const scratch = reinterpret_cast<float*>(aligned_shared + P::scratch_at);
  using Runs = LaneRuns<P, false>;
  const Runs runs(launch.taps);
  for (int channel = blockIdx.x; channel < launch.channels; channel += gridDim.x) {
    const float* const taps = launch.kernel + static_cast<long long>(channel) * launch.pitch;
    const bool aligned = is_aligned(taps);
    float v[Runs::runs][8], largest = 0.f, sum = 0.f;
#pragma unroll
    for (int i = 0; i < Runs::runs; ++i) {
      const int count = launch.taps - runs.at(i);
      load_eight(taps + runs.at(i), count, aligned && count >= 8, v[i]);
      if (i == 0 && runs.at(0) == 0 && launch.skip != nullptr) v[0][0] += launch.skip[channel];
#pragma unroll
      for (int c = 0; c < 8; ++c) sum += fabsf(v[i][c]), largest = fmaxf(largest, fabsf(v[i][c]));
    }
    if (channel + static_cast<int>(gridDim.x) < launch.channels) {
      const float* const next = taps + static_cast<long long>(gridDim.x) * launch.pitch;
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // this warp's lines, of 32 taps
        const int at = threadIdx.x % 32 * P::columns + 64 * s.warp() + 32 * half;
        if (at < launch.taps) prefetch(next + at);
      }
    }
    sum = sequence_magnitude<true, P>(sum, scratch);
    largest = sequence_magnitude<false, P>(largest, scratch + P::all_warps);
    const float2 in = range_powers(largest), out = range_powers(16.f * sum);
    if (threadIdx.x == 0) launch.unscale[channel] = out.y;
    const auto get = [&](int i, float(&run)[8]) {
#pragma unroll
      for (int c = 0; c < 8; ++c) run[c] = v[i][c];
    };
    Runs::store_halves(s.data, get, in.x);
    s.first_of_real();
    __syncthreads();
    s.store_slabs(reinterpret_cast<uint4*>(launch.spectra +
                                           channel * static_cast<std::size_t>(P::spectrum_bytes)),
                  out.x * in.y * (1.f / P::gain));
    __syncthreads();
  }
}

}  // namespace ssm::cuda::device
