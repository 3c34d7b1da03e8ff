// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "convolution/convolution_plan.cuh"
#include "ssm/backend/cuda/hopper.hpp"

namespace ssm::cuda::device {

// Sequences longer than a block's transform, by overlap-add in the frequency domain. With u_j and
// k_i blocks of 8192 positions, padded to 16384 points, and U_j, K_i their spectra:
//   Y_m = Σ_{i+j=m} K_i·U_j
//   Z_m = Y_m + (−1)^f·Y_{m−1}
// Block m's output is the first half of Y_m plus the second half of Y_{m−1}: the first half of
// Z_m's inverse, as the sign at frequency f shifts by half a period.

template <class T>
using LongTransform = Transform<32, 32, half_terms<T>>;

/// Spectra of all blocks of channels first + blockIdx.x, gate · x, unscaled floats. Blocks
/// blockIdx.y, blockIdx.y + gridDim.y, …: the stages' tables are made once for several.
template <class T>
struct BlockSpectraLaunch {
  Sequences<const T> x, gate;
  int first_channel;
  int batch;
  int length;
  int pairs;
  int blocks;
  const float* skip;  // added to position 0 of block 0; only for kernels
  char* spectra;      // [channels, pairs, blocks]
};

template <class T>
__device__ inline PairOf<T> block_of(const Sequences<T>& tensor, int pair, int batch, int channel,
                                     int first) {
  PairOf<T> out = pair_of(tensor, pair, batch, channel);
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (out.row[i] != nullptr) out.row[i] += first;
  return out;
}

template <class P, class T>
__global__ void __launch_bounds__(P::threads, P::Terms == 1 ? 2 : 1)
    block_spectra(const BlockSpectraLaunch<T> launch) {
  extern __shared__ char shared[];
  const Stages<P> s = make_stages<P>(shared);
  const int channel = launch.first_channel + blockIdx.x;
  for (int item = blockIdx.y; item < launch.pairs * launch.blocks; item += gridDim.y) {
    const int pair = item / launch.blocks, first = item % launch.blocks * P::length;
    const int left = min(launch.length - first, P::length);
    const auto x = block_of(launch.x, pair, launch.batch, channel, first);
    const auto gate = block_of(launch.gate, pair, launch.batch, channel, first);
    const bool whole = has_whole_runs(x, left) && has_whole_runs(gate, left);
    float v[2][2][8];
    load_rows<P>(v, x, left, whole);
    multiply_rows<P>(v, gate, left, whole);
    if (launch.skip != nullptr && first == 0 && threadIdx.x == 0)
      v[0][0][0] += launch.skip[channel];
    const float2 largest = block_magnitude<P, false>(v, s.scratch);
    const float scale = range_scale(fmaxf(largest.x, largest.y));
    transform(s, v, {scale, scale});
    char* const out = launch.spectra +
                      (static_cast<long long>(blockIdx.x) * launch.pairs * launch.blocks + item) *
                          Spectrum<P>::bytes;
#pragma unroll 1
    for (int tile = threadIdx.x / 32; tile < P::last_tiles; tile += P::warps) {
      float frequency[P::R3 / 4][4];
      third_stage(s, tile, frequency);
      store_spectrum<P>(out, tile, frequency, 1.f / (scale * P::gain));
    }
    __syncthreads();
  }
}

struct BlockProductLaunch {
  float2* inputs;         // [channels, pairs, blocks, points]  U_j, replaced by Z_m
  const float2* kernels;  // [channels, kernel_blocks, points]
  int pairs;
  int blocks;
  int kernel_blocks;
  int points;
  int row_points;  // points with the same k1
};

/// sum[k] = Σ_i kernel_i · input_{m+k−i}, columns of shared memory, `pitch` apart.
template <int Outputs>
__device__ inline void multiply_columns(float2 (&sum)[Outputs], const float2* kernel,
                                        int kernel_blocks, const float2* input, int blocks, int m,
                                        int pitch) {
  const auto input_at = [&](int j) {
    return j >= 0 && j < blocks ? input[j * pitch] : float2{0.f, 0.f};
  };
  // Kernel block i meets inputs m − i … m + Outputs − 1 − i; each step shifts the window by one.
  float2 window[Outputs] = {};
#pragma unroll
  for (int k = 1; k < Outputs; ++k) window[k] = input_at(m + k);
  for (int i = 0; i < min(kernel_blocks, m + Outputs); ++i) {
    window[0] = input_at(m - i);
    const float2 w = kernel[i * pitch];
#pragma unroll
    for (int k = 0; k < Outputs; ++k) sum[k] = multiply_add(w, window[k], sum[k]);
#pragma unroll
    for (int k = Outputs - 1; k > 0; --k) window[k] = window[k - 1];
  }
}

/// One thread a frequency of channel blockIdx.y; both polynomials lie in shared memory, a column a
/// thread. The columns of the next pair of sequences come while those of this one are multiplied.
static __global__ void multiply_blocks(const BlockProductLaunch launch) {
  extern __shared__ float2 columns[];
  constexpr int outputs = 4;
  const int point = blockIdx.x * blockDim.x + threadIdx.x, pitch = blockDim.x;
  float2* const kernel = columns + threadIdx.x;
  const auto input_of = [&](int pair) {
    return kernel + (launch.kernel_blocks + pair % 2 * launch.blocks) * pitch;
  };
  const auto data_of = [&](int pair) {
    return launch.inputs +
           (static_cast<long long>(blockIdx.y) * launch.pairs + pair) * launch.blocks *
               launch.points +
           point;
  };
  const auto bring = [&](float2* to, const float2* from, int count) {
    for (int i = 0; i < count; ++i)
      copy_complex_async(to + i * pitch, from + static_cast<long long>(i) * launch.points);
  };
  const float sign = point / launch.row_points % 2 == 0 ? 1.f : -1.f;
  bring(kernel,
        launch.kernels + static_cast<long long>(blockIdx.y) * launch.kernel_blocks * launch.points +
            point,
        launch.kernel_blocks);
  bring(input_of(0), data_of(0), launch.blocks);
  for (int pair = 0; pair < launch.pairs; ++pair) {
    wait_for_copies();
    if (pair + 1 < launch.pairs) bring(input_of(pair + 1), data_of(pair + 1), launch.blocks);
    const float2* const input = input_of(pair);
    float2* const data = data_of(pair);
    float2 before{0.f, 0.f};
    for (int m = 0; m < launch.blocks; m += outputs) {
      float2 sum[outputs] = {};
      multiply_columns(sum, kernel, launch.kernel_blocks, input, launch.blocks, m, pitch);
#pragma unroll
      for (int k = 0; k < outputs; ++k) {
        if (m + k < launch.blocks)
          data[static_cast<long long>(m + k) * launch.points] = {sum[k].x + sign * before.x,
                                                                 sum[k].y + sign * before.y};
        before = sum[k];
      }
    }
  }
}

/// Inverses of the blocks of channel first + blockIdx.x, times gate; shared among blocks as above.
template <class T>
struct BlockOutputLaunch {
  Sequences<const T> gate;
  Sequences<T> y;
  int first_channel;
  int batch;
  int length;
  int pairs;
  int blocks;
  const char* spectra;
};

template <class P, class T>
__global__ void __launch_bounds__(P::threads, P::Terms == 1 ? 2 : 1)
    block_outputs(const BlockOutputLaunch<T> launch) {
  extern __shared__ char shared[];
  const Stages<P> s = make_stages<P>(shared);
  const int channel = launch.first_channel + blockIdx.x;
  for (int item = blockIdx.y; item < launch.pairs * launch.blocks; item += gridDim.y) {
    const int pair = item / launch.blocks, first = item % launch.blocks * P::length;
    const int left = min(launch.length - first, P::length);
    const char* const in =
        launch.spectra +
        (static_cast<long long>(blockIdx.x) * launch.pairs * launch.blocks + item) *
            Spectrum<P>::bytes;
    float largest = 0.f;
#pragma unroll 8
    for (int i = threadIdx.x; i < P::points / 2; i += P::threads) {
      const float4 v = reinterpret_cast<const float4*>(in)[i];
      largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
    }
    for (int lane = 16; lane > 0; lane /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lane));
    if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int w = 0; w < P::warps; ++w) largest = fmaxf(largest, s.scratch[w]);
    const float scale = range_scale(largest);
#pragma unroll 1
    for (int tile = threadIdx.x / 32; tile < P::last_tiles; tile += P::warps) {
      float sum[P::R3 / 4][4];
#pragma unroll
      for (int pair_of_tiles = 0; pair_of_tiles < P::R3 / 8; ++pair_of_tiles) {
        float2 k[2][2];
        Spectrum<P>::load(in, tile, pair_of_tiles, k);
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            sum[2 * pair_of_tiles + h][2 * half] = scale * k[h][half].x;
            sum[2 * pair_of_tiles + h][2 * half + 1] = scale * k[h][half].y;
          }
      }
      third_stage_back(s, tile, sum);
    }
    float2 out[2][8];
    transform_back(s, out);
    const auto y = block_of(launch.y, pair, launch.batch, channel, first);
    const auto gate = block_of(launch.gate, pair, launch.batch, channel, first);
    const bool whole = has_whole_runs(y, left) && has_whole_runs(gate, left);
    // The inverse stages divide by N times the forward gain, which the stored spectra no longer
    // have.
    const float back = P::gain / scale;
    float v[2][2][8];
    unpack_rows(v, out, {back, back});
    multiply_rows<P>(v, gate, left, whole);
    store_rows<P>(v, y, left, whole);
    __syncthreads();
  }
}

/// The passes over `count` channels; tensors are indexed from channel `first`.
template <class T>
class LongPasses {
 public:
  using P = LongTransform<T>;
  static constexpr std::size_t block_bytes = Spectrum<P>::bytes;
  static int blocks_of(int length) { return (length + P::length - 1) / P::length; }

  LongPasses(int count, int first, Stream stream, const char* operation)
      : count_(count), first_(first), stream_(stream), operation_(operation) {}

  template <class U>
  void spectra(const Sequences<const U>& x, const Sequences<const U>& gate, int batch, int length,
               const float* skip, char* out, bool from_first = true) const {
    const int pairs = (batch + 1) / 2, blocks = blocks_of(length);
    launch(block_spectra<P, U>, share(pairs * blocks), P::threads, P::bytes, stream_, operation_,
           BlockSpectraLaunch<U>{x, gate, from_first ? first_ : 0, batch, length, pairs, blocks,
                                 skip, out});
  }
  void multiply(char* inputs, int pairs, int blocks, const char* kernels, int kernel_blocks) const {
    const int threads = blocks + kernel_blocks <= 64 ? 128 : 32;
    launch(multiply_blocks, dim3(P::points / threads, count_), threads,
           (kernel_blocks + std::min(pairs, 2) * blocks) * threads * sizeof(float2), stream_,
           operation_,
           BlockProductLaunch{reinterpret_cast<float2*>(inputs),
                              reinterpret_cast<const float2*>(kernels), pairs, blocks,
                              kernel_blocks, P::points, P::points / P::R1});
  }
  template <class U>
  void outputs(const char* spectra, const Sequences<const U>& gate, const Sequences<U>& y,
               int batch, int length, bool from_first = true) const {
    const int pairs = (batch + 1) / 2, blocks = blocks_of(length);
    launch(block_outputs<P, U>, share(pairs * blocks), P::threads, P::bytes, stream_, operation_,
           BlockOutputLaunch<U>{gate, y, from_first ? first_ : 0, batch, length, pairs, blocks,
                                spectra});
  }

 private:
  dim3 share(int items) const {
    return dim3(count_, std::clamp(2 * hopper_multiprocessors / count_, 1, items));
  }
  int count_, first_;
  Stream stream_;
  const char* operation_;
};

/// Runs a long convolution, a few channels at a time.
template <class T>
class LongConvolution {
  using Passes = LongPasses<T>;

 public:
  LongConvolution(const CausalConvolution<T>& call, void* base) : call_(call), layout_(base) {
    blocks_ = Passes::blocks_of(call.length);
    kernel_blocks_ = Passes::blocks_of(std::min(call.taps, call.length));
    pairs_ = (call.batch + 1) / 2;
    const std::size_t inputs = Passes::block_bytes * blocks_ * pairs_,
                      kernels = Passes::block_bytes * kernel_blocks_;
    slice_ = channels_at_a_time(inputs + kernels, call.channels);
    inputs_ = layout_.template take<char>(inputs * slice_);
    kernels_ = layout_.template take<char>(kernels * slice_);
  }
  std::size_t used() const { return layout_.used(); }

  void run(Stream stream, const char* operation) const {
    const Sequences<const float> kernel{call_.kernel, 0, call_.taps};
    for (int first = 0; first < call_.channels; first += slice_) {
      const Passes passes(std::min(slice_, call_.channels - first), first, stream, operation);
      passes.template spectra<float>(kernel, {}, 1, std::min(call_.taps, call_.length), call_.skip,
                                     kernels_);
      passes.template spectra<T>(call_.x, call_.gate_in, call_.batch, call_.length, nullptr,
                                 inputs_);
      passes.multiply(inputs_, pairs_, blocks_, kernels_, kernel_blocks_);
      passes.template outputs<T>(inputs_, call_.gate_out, call_.y, call_.batch, call_.length);
    }
  }

 private:
  CausalConvolution<T> call_;
  WorkspaceLayout layout_;
  int blocks_, kernel_blocks_, pairs_, slice_;
  char* inputs_;
  char* kernels_;
};

}  // namespace ssm::cuda::device
