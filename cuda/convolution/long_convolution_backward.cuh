// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/long_convolution.cuh"

namespace ssm::cuda::device {

// Gradients of long sequences are causal convolutions of sequences that run backwards in time. With
// ds = gate_out ⊙ dy and r its reverse, r_n = ds_{L−1−n}:
//   du_t      = (kernel * r)_{L−1−t}
//   dkernel_τ = Σ_b (u_b * r_b)_{L−1−τ}
// Of a pair of sequences the second one's r has the other sign: the real part of
// (u_1 + i·u_2) * (r_1 − i·r_2) is the sum over both.

template <class T>
struct ReversedProductLaunch {
  Sequences<const T> dy, gate;
  int first_channel;
  int length;
  float* out;  // [B, channels, L]
};

/// ± gate · dy of sequence blockIdx.z, channel first + blockIdx.y, backwards.
template <class T>
__global__ void reverse_products(const ReversedProductLaunch<T> launch) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, channel = launch.first_channel + blockIdx.y;
  if (t >= launch.length) return;
  const auto of = [&](const Sequences<const T>& tensor) {
    return to_float(
        tensor.data[blockIdx.z * tensor.batch_stride + channel * tensor.channel_stride + t]);
  };
  float v = of(launch.dy);
  if (launch.gate.data != nullptr) v *= of(launch.gate);
  launch.out[(static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y) * launch.length +
             (launch.length - 1 - t)] = blockIdx.z % 2 == 0 ? v : -v;
}

template <class T>
struct InputGradientLaunch {
  const float* reversed;  // [B, channels, L]
  Sequences<const T> x, gate;
  Sequences<T> dx, dgate;
  int first_channel;
  int length;
};

/// dx = gate · du, dgate = x · du, where du lies backwards with the sign above.
template <class T>
__global__ void write_input_gradients(const InputGradientLaunch<T> launch) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, channel = launch.first_channel + blockIdx.y;
  if (t >= launch.length) return;
  const auto at = [&](const auto& tensor) {
    return blockIdx.z * tensor.batch_stride + channel * tensor.channel_stride + t;
  };
  float v =
      launch
          .reversed[(static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y) * launch.length +
                    (launch.length - 1 - t)];
  if (blockIdx.z % 2 != 0) v = -v;
  if (launch.dgate.data != nullptr)
    from_float(v * to_float(launch.x.data[at(launch.x)]), launch.dgate.data[at(launch.dgate)]);
  if (launch.gate.data != nullptr) v *= to_float(launch.gate.data[at(launch.gate)]);
  from_float(v, launch.dx.data[at(launch.dx)]);
}

struct BatchProductLaunch {
  const float2* inputs;  // [channels, pairs, blocks, points]
  const float2* others;
  float2* sums;  // [channels, blocks, points]
  int pairs, blocks, points, row_points;
};

/// Σ over pairs of the products of their polynomials, in order; otherwise as multiply_blocks.
static __global__ void multiply_and_sum_blocks(const BatchProductLaunch launch) {
  extern __shared__ float2 columns[];
  constexpr int outputs = 4;
  const int point = blockIdx.x * blockDim.x + threadIdx.x, pitch = blockDim.x;
  float2* const input = columns + threadIdx.x;
  float2* const other = input + launch.blocks * pitch;
  float2* const total = other + launch.blocks * pitch;
  const float sign = point / launch.row_points % 2 == 0 ? 1.f : -1.f;
  for (int m = 0; m < launch.blocks; ++m) total[m * pitch] = {0.f, 0.f};
  for (int pair = 0; pair < launch.pairs; ++pair) {
    const long long at =
        (static_cast<long long>(blockIdx.y) * launch.pairs + pair) * launch.blocks * launch.points +
        point;
    for (int j = 0; j < launch.blocks; ++j) {
      input[j * pitch] = launch.inputs[at + static_cast<long long>(j) * launch.points];
      other[j * pitch] = launch.others[at + static_cast<long long>(j) * launch.points];
    }
    for (int m = 0; m < launch.blocks; m += outputs) {
      float2 sum[outputs];
#pragma unroll
      for (int k = 0; k < outputs; ++k)
        sum[k] = m + k < launch.blocks ? total[(m + k) * pitch] : float2{0.f, 0.f};
      multiply_columns(sum, other, launch.blocks, input, launch.blocks, m, pitch);
#pragma unroll
      for (int k = 0; k < outputs; ++k)
        if (m + k < launch.blocks) total[(m + k) * pitch] = sum[k];
    }
  }
  float2 before{0.f, 0.f};
  for (int m = 0; m < launch.blocks; ++m) {
    const float2 sum = total[m * pitch];
    launch.sums[(static_cast<long long>(blockIdx.y) * launch.blocks + m) * launch.points + point] =
        {sum.x + sign * before.x, sum.y + sign * before.y};
    before = sum;
  }
}

/// dkernel_τ += reversed_{L−1−τ} of channel blockIdx.y; tap 0 is dskip's, too.
static __global__ void add_kernel_gradients(const float* reversed, int length, int taps, int pitch,
                                            float* dkernel, float* dskip) {
  const int tap = blockIdx.x * blockDim.x + threadIdx.x;
  if (tap >= taps) return;
  const float v = reversed[static_cast<long long>(blockIdx.y) * length + (length - 1 - tap)];
  dkernel[static_cast<long long>(blockIdx.y) * pitch + tap] += v;
  if (tap == 0 && dskip != nullptr) dskip[blockIdx.y] += v;
}

/// The adjoint of LongConvolution, a few channels at a time.
template <class T>
class LongConvolutionBackward {
  using Passes = LongPasses<T>;

 public:
  LongConvolutionBackward(const CausalConvolutionBackward<T>& call, void* base)
      : call_(call), layout_(base) {
    taps_ = std::min(call.taps, call.length);
    blocks_ = Passes::blocks_of(call.length), kernel_blocks_ = Passes::blocks_of(taps_);
    pairs_ = (call.batch + 1) / 2;
    const std::size_t inputs = Passes::block_bytes * blocks_ * pairs_,
                      kernels = Passes::block_bytes * kernel_blocks_,
                      sums = Passes::block_bytes * blocks_,
                      rows = std::size_t{4} * call.batch * call.length,
                      row = std::size_t{4} * call.length;
    slice_ = channels_at_a_time(2 * inputs + kernels + sums + rows + row, call.channels);
    inputs_ = layout_.template take<char>(inputs * slice_);
    outputs_ = layout_.template take<char>(inputs * slice_);
    kernels_ = layout_.template take<char>(kernels * slice_);
    sums_ = layout_.template take<char>(sums * slice_);
    reversed_ = layout_.template take<float>(rows / 4 * slice_);
    gradient_ = layout_.template take<float>(row / 4 * slice_);
  }
  std::size_t used() const { return layout_.used(); }

  void run(Stream stream, const char* operation) const {
    for (int first = 0; first < call_.channels; first += slice_)
      run_slice(std::min(slice_, call_.channels - first), first, stream, operation);
  }

 private:
  void run_slice(int count, int first, Stream stream, const char* operation) const {
    const int batch = call_.batch, length = call_.length;
    const Passes passes(count, first, stream, operation);
    const dim3 every((length + 255) / 256, count, batch);
    const std::int64_t row = std::int64_t{length} * count;
    const Sequences<const float> reversed{reversed_, row, length};
    launch(reverse_products<T>, every, 256, 0, stream, operation,
           ReversedProductLaunch<T>{call_.dy, call_.gate_out, first, length, reversed_});
    passes.template spectra<float>(reversed, {}, batch, length, nullptr, outputs_, false);
    passes.template spectra<T>(call_.x, call_.gate_in, batch, length, nullptr, inputs_);
    passes.template spectra<float>({call_.kernel, 0, call_.taps}, {}, 1, taps_, call_.skip,
                                   kernels_);
    add_gradient(passes, count, first, stream, operation);

    passes.multiply(outputs_, pairs_, blocks_, kernels_, kernel_blocks_);
    passes.template outputs<float>(outputs_, {}, {reversed_, row, length}, batch, length, false);
    launch(write_input_gradients<T>, every, 256, 0, stream, operation,
           InputGradientLaunch<T>{reversed_, call_.x, call_.gate_in, call_.dx, call_.dgate_in,
                                  first, length});
    if (call_.dgate_out.data == nullptr) return;
    passes.multiply(inputs_, pairs_, blocks_, kernels_, kernel_blocks_);
    passes.template outputs<T>(inputs_, call_.dy, call_.dgate_out, batch, length);
  }
  void add_gradient(const Passes& passes, int count, int first, Stream stream,
                    const char* operation) const {
    constexpr int points = Passes::P::points;
    const int threads = blocks_ <= 32 ? 128 : 32;
    launch(multiply_and_sum_blocks, dim3(points / threads, count), threads,
           3 * blocks_ * threads * sizeof(float2), stream, operation,
           BatchProductLaunch{
               reinterpret_cast<const float2*>(inputs_), reinterpret_cast<const float2*>(outputs_),
               reinterpret_cast<float2*>(sums_), pairs_, blocks_, points, points / Passes::P::R1});
    passes.template outputs<float>(sums_, {}, {gradient_, 0, call_.length}, 1, call_.length, false);
    launch(add_kernel_gradients, dim3((taps_ + 255) / 256, count), 256, 0, stream, operation,
           gradient_, call_.length, taps_, call_.taps,
           call_.dkernel + std::int64_t{first} * call_.taps,
           call_.dskip != nullptr ? call_.dskip + first : nullptr);
  }

  CausalConvolutionBackward<T> call_;
  WorkspaceLayout layout_;
  int taps_, blocks_, kernel_blocks_, pairs_, slice_;
  char *inputs_, *outputs_, *kernels_, *sums_;
  float *reversed_, *gradient_;
};

}  // namespace ssm::cuda::device
