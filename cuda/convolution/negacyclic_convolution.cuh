// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/negacyclic_tables.cuh"

namespace ssm::cuda::device {

struct NegacyclicLaunch : SequenceProduct {
  const char* tables = nullptr;
  const float* unscale = nullptr;
  unsigned zero = 0;  // toeplitz_operands
};

/// Convolves tiles blockIdx.x, blockIdx.x + gridDim.x, … of P::rows / Blocks sequences of a
/// channel, or with Adjoint correlates: the same product backwards in time. Each warp reads,
/// transforms, transforms back and writes its own row; two barriers a tile, three if a sequence has
/// several rows.
template <class P, bool Gated, int Blocks, bool Adjoint>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    convolve_negacyclic(const NegacyclicLaunch launch) {
  extern __shared__ char shared[];
  make_matrices<P>(shared);
  using Row = TileRow<P, Blocks, Adjoint>;
  const unsigned data = shared_address(shared), ring_at = data + P::ring_at;
  const uint4* const forward = reinterpret_cast<const uint4*>(shared + P::forward_at);
  const uint4* const inverse = reinterpret_cast<const uint4*>(shared + P::inverse_at);
  float* const scratch = reinterpret_cast<float*>(shared + P::scratch_at);
  const OuterLane<P> lane(data);
  const int tiles = (launch.batch + Row::sequences - 1) / Row::sequences;
  const int items = tiles * launch.channels;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const int channel = item / tiles;
    const Row row(item % tiles, launch.batch, launch.length);
    const BFloat16* const x = row.of(launch.x, channel);
    const BFloat16* const gate_in = Gated ? row.of(launch.gate_in, channel) : nullptr;
    const BFloat16* const gate_out = Gated ? row.of(launch.gate_out, channel) : nullptr;
    const BFloat16* const second_gate =
        Gated && Adjoint ? row.of(launch.second_gate, channel) : nullptr;
    BFloat16* const y = row.of(launch.y, channel);
    BFloat16* const second = Gated && Adjoint ? row.of(launch.second, channel) : nullptr;
    const bool whole = launch.length % 8 == 0 && is_aligned(x) && is_aligned(y) &&
                       is_aligned(gate_in) && is_aligned(gate_out) && is_aligned(second_gate) &&
                       is_aligned(second);
    TableRing<P, Blocks> ring(launch.tables + channel * negacyclic_table_bytes<P>(Blocks), ring_at);
    float2 scale;
    const float kernel_unscale = launch.unscale[channel];
    {
      uint4 raw[P::runs], factors[P::runs];
      row.load(raw, x, whole);
      if (gate_in != nullptr) row.load(factors, gate_in, whole);
      float v[P::runs][8];
      widen_runs<P>(v, raw);
      if (gate_in != nullptr) multiply_runs<P>(v, factors);
      scale = range_powers(rows_magnitude<false, Blocks>(largest_magnitude<P>(v), scratch));
      store_halves<P, Adjoint>(data, v, scale.x);
    }
    outer_transform(lane, forward);
    if (gate_out != nullptr) row.prefetch_lines(gate_out);
    if (second_gate != nullptr) row.prefetch_lines(second_gate);
    if (const int next = item + static_cast<int>(gridDim.x); !Gated && next < items) {
      const Row later(next % tiles, launch.batch, launch.length);
      later.prefetch_lines(later.of(launch.x, next / tiles));
    }
    __syncthreads();
    inner_products<P, Blocks>(data, data + P::zero_at, launch.zero, ring);
    __syncthreads();
    const float unscale = kernel_unscale * scale.y;
    outer_inverse(lane, inverse, [&](float a, float b) {
      return Gated ? pack_half(a, b) : pack_bf16(unscale * a, unscale * b);
    });
    __syncwarp();
    const auto multiply_and_store = [&](uint4 run, uint4 gate, bool gated, BFloat16* to, int at,
                                        bool full) {
      const unsigned word[4] = {run.x, run.y, run.z, run.w};
      float factor[8], out[8];
      widen<BFloat16>({gate}, factor);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float2 pair = unpack_half(word[c]);
        out[2 * c] = unscale * pair.x * (gated ? factor[2 * c] : 1.f);
        out[2 * c + 1] = unscale * pair.y * (gated ? factor[2 * c + 1] : 1.f);
      }
      store_eight(to + at, row.left - at, full, out);
    };
    const auto finish = [&](bool full) {
      [[maybe_unused]] uint4 gates[P::runs] = {}, second_gates[P::runs] = {};
      if (gate_out != nullptr) row.load(gates, gate_out, full);
      if (second != nullptr) row.load(second_gates, second_gate, full);
#pragma unroll
      for (int i = 0; i < P::runs; ++i) {
        const int at = row.at(i);
        uint4 run = load_run(run_address<P>(data, i));
        if (Adjoint) run = reversed(run);
        if (at >= row.left) continue;
        if constexpr (Gated) {
          multiply_and_store(run, gates[i], gate_out != nullptr, y, at, full);
          if (second != nullptr) multiply_and_store(run, second_gates[i], true, second, at, full);
        } else if (full) {
          *reinterpret_cast<uint4*>(y + at) = run;
        } else {
          float out[8];
          widen<BFloat16>({run}, out);
          store_eight(y + at, row.left - at, false, out);
        }
      }
    };
    if (whole) {
      finish(true);
    } else {
      finish(false);
    }
    __syncwarp();
  }
}

}  // namespace ssm::cuda::device
