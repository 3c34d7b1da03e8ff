// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/right_angle_tables.cuh"

namespace ssm::cuda::device {

struct RightAngleLaunch : SequenceProduct {
  const char* tables = nullptr;
  const char* spectra = nullptr;
  const float* unscale = nullptr;
};

/// Convolves P::Groups sequences of a channel at a time with its kernel, or with Adjoint
/// correlates: the same product backwards in time. Three barriers.
template <class P, bool Gated, bool Adjoint>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    convolve_right_angle(const RightAngleLaunch launch) {
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(aligned_shared, launch.tables);
  float* const scratch = reinterpret_cast<float*>(aligned_shared + P::scratch_at);
  using Runs = LaneRuns<P, Adjoint>;
  const int tiles = (launch.batch + P::Groups - 1) / P::Groups, items = tiles * launch.channels;
  const unsigned data = s.own_data();
  const auto sequence_of = [&](int item) { return item % tiles * P::Groups + s.group(); };
  const auto of = [&](const auto& tensor, int item) {
    return tensor.data == nullptr ? nullptr
                                  : tensor.data + sequence_of(item) * tensor.batch_stride +
                                        item / tiles * tensor.channel_stride;
  };
  GatedRuns<Gated> inputs;
  const auto load = [&](int item) {
    const BFloat16* const x = of(launch.x, item);
    const Runs runs(sequence_of(item) < launch.batch ? launch.length : 0);
    runs.load(inputs.x, x, launch.length % 8 == 0 && is_aligned(x));
  };
  // Without gates the next item's runs are on their way while the one before is finished; with
  // gates registers are short.
  if (!Gated && static_cast<int>(blockIdx.x) < items) load(blockIdx.x);
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const int channel = item / tiles, next = item + gridDim.x;
    const Runs runs(sequence_of(item) < launch.batch ? launch.length : 0);
    const BFloat16* const gate_in = Gated ? of(launch.gate_in, item) : nullptr;
    const BFloat16* const gate_out = Gated ? of(launch.gate_out, item) : nullptr;
    const BFloat16* const second_gate = Gated && Adjoint ? of(launch.second_gate, item) : nullptr;
    BFloat16* const y = of(launch.y, item);
    BFloat16* const second = Gated && Adjoint ? of(launch.second, item) : nullptr;
    const bool whole = launch.length % 8 == 0 && is_aligned(y) && is_aligned(gate_in) &&
                       is_aligned(gate_out) && is_aligned(second_gate) && is_aligned(second);
    float unscale = launch.unscale[channel] * (1.f / (P::length * P::gain * P::gain));
    if (Gated) load(item);
    inputs.load_gate(runs, gate_in, whole);
    const float2 scale = range_powers(sequence_magnitude<false, P>(inputs.largest(), scratch));
    unscale *= scale.y;
    Runs::store_halves(data, inputs, scale.x);
    s.first_of_real();
    if (gate_out != nullptr) runs.prefetch_lines(gate_out);
    if (second_gate != nullptr) runs.prefetch_lines(second_gate);
    if (next < items) {
      const Runs later(sequence_of(next) < launch.batch ? launch.length : 0);
      later.prefetch_lines(of(launch.x, next));
      if (gate_in != nullptr) later.prefetch_lines(of(launch.gate_in, next));
    }
    __syncthreads();
    const uint4* const filter = reinterpret_cast<const uint4*>(
        launch.spectra + channel * static_cast<std::size_t>(P::spectrum_bytes));
    if (P::Groups == 1 || launch.batch - item % tiles * P::Groups >= P::Groups) {
      s.template filter_slabs<true, P::Groups>(nullptr, filter);
    } else {
      s.template filter_slabs<true, 1>(nullptr, filter);
    }
    __syncthreads();
    if (!Gated && next < items) load(next);
    const unsigned unscale_pair = pack_bf16(unscale, unscale);  // a power of two
    s.last_of_real([&](float a, float b) {
      return Gated ? pack_half(a, b) : multiply_bf16(pack_bf16(a, b), unscale_pair);
    });
    __syncwarp();
    if constexpr (!Gated) {
#pragma unroll
      for (int i = 0; i < Runs::runs; ++i) {
        uint4 run = load_run(Runs::address(data, i));
        if (Adjoint) run = reversed(run);
        if (const int at = runs.at(i); at < runs.left)
          store_words(y + at, runs.left - at, whole, run);
      }
    } else {
      const auto multiply_and_store = [&](BFloat16* to, const BFloat16* gate) {
        uint4 factors[Runs::runs];  // all under way before the first is used
        if (gate != nullptr) runs.load(factors, gate, whole);
#pragma unroll
        for (int i = 0; i < Runs::runs; ++i) {
          uint4 run = load_run(Runs::address(data, i));
          if (Adjoint) run = reversed(run);
          const unsigned word[4] = {run.x, run.y, run.z, run.w};
          float factor[8], out[8];
          widen<BFloat16>({factors[i]}, factor);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const float2 pair = unpack_half(word[c]);
            out[2 * c] = unscale * pair.x * (gate != nullptr ? factor[2 * c] : 1.f);
            out[2 * c + 1] = unscale * pair.y * (gate != nullptr ? factor[2 * c + 1] : 1.f);
          }
          if (const int at = runs.at(i); at < runs.left)
            store_eight(to + at, runs.left - at, whole, out);
        }
      };
      multiply_and_store(y, gate_out);
      if (second != nullptr) multiply_and_store(second, second_gate);
    }
    __syncwarp();
  }
}

}  // namespace ssm::cuda::device
