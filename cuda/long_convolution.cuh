// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "causal_convolution.cuh"
#include "launch.cuh"

namespace ssm::cuda::device {

// Sequences longer than a block's transform, by overlap-add in the frequency domain. With u_j and k_i blocks of 8192
// positions, padded to 16384 points, and U_j, K_i their spectra:
//   Y_m = Σ_{i+j=m} K_i·U_j          block m's output is the first half of Y_m plus the second half of Y_{m−1},
//   Z_m = Y_m + (−1)^f·Y_{m−1}       the first half of Z_m's inverse: the sign at frequency f shifts by half a period

template <class T>
using LongTransform = Transform<32, 32, half_terms<T>>;

/// Spectra of all blocks of channels first + blockIdx.x, gate · x, unscaled floats. Blocks blockIdx.y,
/// blockIdx.y + gridDim.y, …: the stages' tables are made once for several.
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
                          Spectrum<P, true>::bytes;
#pragma unroll 1
    for (int tile = threadIdx.x / 32; tile < P::last_tiles; tile += P::warps) {
      float frequency[P::R3 / 4][4];
      third_stage(s, tile, frequency);
      store_spectrum<P, true>(out, tile, frequency, 1.f / (scale * P::gain));
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

/// One thread a frequency of channel blockIdx.y; both polynomials lie in shared memory, a column a thread.
static __global__ void multiply_blocks(const BlockProductLaunch launch) {
  extern __shared__ float2 columns[];
  constexpr int outputs = 4;
  float2* const kernel = columns + threadIdx.x;
  float2* const input = kernel + launch.kernel_blocks * blockDim.x;
  const int point = blockIdx.x * blockDim.x + threadIdx.x, pitch = blockDim.x;
  const float sign = point / launch.row_points % 2 == 0 ? 1.f : -1.f;
  for (int i = 0; i < launch.kernel_blocks; ++i)
    kernel[i * pitch] =
        launch.kernels[(static_cast<long long>(blockIdx.y) * launch.kernel_blocks + i) *
                           launch.points +
                       point];
  for (int pair = 0; pair < launch.pairs; ++pair) {
    float2* const data =
        launch.inputs +
        (static_cast<long long>(blockIdx.y) * launch.pairs + pair) * launch.blocks * launch.points +
        point;
    for (int j = 0; j < launch.blocks; ++j)
      input[j * pitch] = data[static_cast<long long>(j) * launch.points];
    float2 before{0.f, 0.f};
    for (int m = 0; m < launch.blocks; m += outputs) {
      float2 sum[outputs] = {}, window[outputs] = {};
      // Kernel block i meets inputs m − i … m + 3 − i; each step shifts the window by one.
      const auto input_at = [&](int j) {
        return j >= 0 && j < launch.blocks ? input[j * pitch] : float2{0.f, 0.f};
      };
#pragma unroll
      for (int k = 1; k < outputs; ++k) window[k] = input_at(m + k);
      for (int i = 0; i < min(launch.kernel_blocks, m + outputs); ++i) {
        window[0] = input_at(m - i);
        const float2 w = kernel[i * pitch];
#pragma unroll
        for (int k = 0; k < outputs; ++k) sum[k] = multiply_add(w, window[k], sum[k]);
#pragma unroll
        for (int k = outputs - 1; k > 0; --k) window[k] = window[k - 1];
      }
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
            Spectrum<P, true>::bytes;
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
        Spectrum<P, true>::load(in, tile, pair_of_tiles, k);
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
    // The inverse stages divide by N times the forward gain, which the stored spectra no longer have.
    const float back = P::gain / scale;
    float v[2][2][8];
    unpack_rows(v, out, {back, back});
    multiply_rows<P>(v, gate, left, whole);
    store_rows<P>(v, y, left, whole);
    __syncthreads();
  }
}

/// Runs a long convolution over as many channels at a time as keep the workspace near 256 MiB.
template <class T>
class LongConvolution {
  using P = LongTransform<T>;

 public:
  LongConvolution(const CausalConvolution<T>& call, void* base) : call_(call), carver_(base) {
    blocks_ = (call.length + P::length - 1) / P::length;
    kernel_blocks_ = (std::min(call.taps, call.length) + P::length - 1) / P::length;
    pairs_ = (call.batch + 1) / 2;
    const std::size_t channel =
        Spectrum<P, true>::bytes * (std::size_t(blocks_) * pairs_ + kernel_blocks_);
    slice_ = static_cast<int>(
        std::clamp<std::size_t>((std::size_t{256} << 20) / channel, 1, call.channels));
    inputs_ = carver_.template take<char>(Spectrum<P, true>::bytes * blocks_ * pairs_ * slice_);
    kernels_ = carver_.template take<char>(Spectrum<P, true>::bytes * kernel_blocks_ * slice_);
  }
  std::size_t used() const { return carver_.used(); }

  void run(Stream stream, const char* operation) const {
    const int threads = blocks_ + kernel_blocks_ <= 64 ? 128 : 32;
    const Sequences<const float> kernel{call_.kernel, 0, call_.taps};
    for (int first = 0; first < call_.channels; first += slice_) {
      const int count = std::min(slice_, call_.channels - first);
      const auto share = [&](int items) { return dim3(count, std::clamp(264 / count, 1, items)); };
      launch(block_spectra<P, float>, share(kernel_blocks_), P::threads, P::bytes, stream,
             operation,
             BlockSpectraLaunch<float>{kernel,
                                       {},
                                       first,
                                       1,
                                       std::min(call_.taps, call_.length),
                                       1,
                                       kernel_blocks_,
                                       call_.skip,
                                       kernels_});
      launch(block_spectra<P, T>, share(blocks_ * pairs_), P::threads, P::bytes, stream, operation,
             BlockSpectraLaunch<T>{call_.x, call_.gate_in, first, call_.batch, call_.length, pairs_,
                                   blocks_, nullptr, inputs_});
      launch(multiply_blocks, dim3(P::points / threads, count), threads,
             (blocks_ + kernel_blocks_) * threads * sizeof(float2), stream, operation,
             BlockProductLaunch{reinterpret_cast<float2*>(inputs_),
                                reinterpret_cast<const float2*>(kernels_), pairs_, blocks_,
                                kernel_blocks_, P::points, P::points / P::R1});
      launch(block_outputs<P, T>, share(blocks_ * pairs_), P::threads, P::bytes, stream, operation,
             BlockOutputLaunch<T>{call_.gate_out, call_.y, first, call_.batch, call_.length, pairs_,
                                  blocks_, inputs_});
    }
  }

 private:
  CausalConvolution<T> call_;
  Carver carver_;
  int blocks_, kernel_blocks_, pairs_, slice_;
  char* inputs_;
  char* kernels_;
};

}  // namespace ssm::cuda::device
