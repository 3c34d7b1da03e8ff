// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "convolution/outer_stage.cuh"

namespace ssm::cuda::device {

// The transforms of the rows that outer_stage leaves, in place: images become spectra, or images of
// the product with a filter, or spectra become images of it.

struct RowLaunch {
  int items, batch, rows;
  char* data;                   // [D, B, rows, P::spectrum_bytes], items is D·B
  const char* filters;          // [D, rows, P::spectrum_bytes], or null
  const char* tables;           // [rows, P::table_bytes]
  const SequenceScale* scales;  // of kernels, whose spectra are brought below 1; or null
  float gain;                   // of the transform so far
};

/// This warp's columns between an image and shared memory.
template <class P, bool ToShared>
__device__ inline void move_image(char* image, unsigned data) {
  static_assert(P::N3 == 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % P::warps;
  const int s2 = slot_of<P::N2>(2 * warp + lane / 8 % 2), part = lane / 4 % 2, run = lane % 4;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int s1 = 2 * i + lane / 16;
    char* const at = image + ((s1 * P::N2 + s2) * 8 + lane % 8) * 16;
    const unsigned address = data + line_at<P>(s1, s2) ^ run_bits<P>(part, run);
    if constexpr (ToShared) {
      copy_run_async(address, at);
    } else {
      *reinterpret_cast<uint4*>(at) = load_run(address);
    }
  }
  if constexpr (ToShared) {
    commit_copies();
    wait_for_groups<0>();
  }
  __syncwarp();
}

/// Rows blockIdx.y of sequences blockIdx.x, blockIdx.x + gridDim.x, …
template <class P, bool FromImage, bool ToImage>
__global__ void __launch_bounds__(P::threads, P::blocks_per_multiprocessor)
    transform_rows(const RowLaunch launch) {
  static_assert(P::Groups == 1);
  extern __shared__ __align__(128) char aligned_shared[];
  const RightAngleStages<P> s = right_angle_stages<P>(
      aligned_shared, launch.tables + blockIdx.y * static_cast<std::size_t>(P::table_bytes));
  const auto row_of = [&](int sequence) {
    return (static_cast<std::size_t>(sequence) * launch.rows + blockIdx.y) * P::spectrum_bytes;
  };
  for (int item = blockIdx.x; item < launch.items; item += gridDim.x) {
    char* const row = launch.data + row_of(item);
    if constexpr (FromImage) {
      move_image<P, true>(row, s.data);
      s.template first<false>();
      if (const int next = item + gridDim.x; next < launch.items)
        for (int at = threadIdx.x * 128; at < P::spectrum_bytes; at += P::threads * 128)
          prefetch(launch.data + row_of(next) + at);
      __syncthreads();
    }
    if constexpr (ToImage) {
      s.template filter_slabs<FromImage, 1>(
          reinterpret_cast<const uint4*>(row),
          launch.filters == nullptr
              ? nullptr
              : reinterpret_cast<const uint4*>(launch.filters + row_of(item / launch.batch)));
      __syncthreads();
      s.template first<true>();
      __syncwarp();
      move_image<P, false>(row, s.data);
      if constexpr (!FromImage) __syncthreads();  // the next row's slabs are of all columns
    } else {
      const float factor =
          launch.scales == nullptr
              ? 1.f
              : launch.scales[item].sum.x * launch.scales[item].largest.y / launch.gain;
      s.store_slabs(reinterpret_cast<uint4*>(row), factor);
      __syncthreads();
    }
  }
}

}  // namespace ssm::cuda::device
