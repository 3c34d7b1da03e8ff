// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/decayed_chunks.hpp"
#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/ssd_scan.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::SsdScan and ssm::SsdScanBackward. T: float,
/// double, sums in T, those of log decays in double. By chunks of 64 or 128 positions:
/// 2·B·L·H·(2·N·P + chunk·P/2) + B·L·G·chunk·N operations, where a thread computes 4 × 4 numbers.
/// Sequences of one position are one kernel.
/// sums        [B, L, H]
/// workspace   ssd_sizes(a).forward_scratch() numbers
template <class T>
SSM_CUDA_API void ssd_scan(const ssm::SsdScan<T, CudaSpace>& a, DeviceSegments segments,
                           const DecayedSizes& sizes, double* sums, T* workspace, Stream stream);
/// The gradient of a decay is the sum of dy·y − v·dv over all later positions; it is taken within
/// chunks, from the adjoint and the state at their ends.
/// workspace   ssd_backward_scratch(sizes) numbers
template <class T>
SSM_CUDA_API void ssd_scan_backward(const ssm::SsdScanBackward<T, CudaSpace>& g,
                                    DeviceSegments segments, const DecayedSizes& sizes,
                                    double* sums, T* workspace, Stream stream);

template <class T, class Space>
DecayedSizes ssd_sizes(const ssm::SsdScan<T, Space>& a) {
  const Index batch = a.x.extent(0), length = a.x.extent(1);
  const Index keys = a.B.extent(3), values = a.x.extent(3);
  return {.batch = batch,
          .length = length,
          .sequences = sequence_count(batch, a.segments),
          .heads = a.x.extent(2),
          .groups = a.B.extent(2),
          .keys = keys,
          .values = values,
          .chunks = sequence_chunks(batch, length, a.segments, decayed_chunk(keys, values))};
}
/// Beside the passes' own: [2, B, L, H, P] outputs and gradients of values, [3, B, L, H] products
/// of those, [S, H, N, P] final states, [3, places, H] gradients of parameters.
constexpr Index ssd_backward_scratch(const DecayedSizes& n) {
  return n.backward_scratch() + n.rows() * (2 * n.values + 3) + n.sequences * n.state() +
         3 * n.chunks.places * n.heads;
}

namespace primitive {
struct SsdScan {
  template <class Ctx, DeviceScalar T>
  static void ssd_scan(Ctx& ctx, const ssm::SsdScan<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const DecayedSizes sizes = ssd_sizes(a);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto sums = frame.template tensor<double>(sizes.rows());
      const auto workspace = frame.template tensor<T>(sizes.forward_scratch());
      cuda::ssd_scan(on_device(a), segments, sizes, sums.data(), workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void ssd_scan_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const DecayedSizes sizes = ssd_sizes(g.forward);
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto sums = frame.template tensor<double>(sizes.rows());
      const auto workspace = frame.template tensor<T>(ssd_backward_scratch(sizes));
      cuda::ssd_scan_backward(on_device(g), segments, sizes, sums.data(), workspace.data(), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
