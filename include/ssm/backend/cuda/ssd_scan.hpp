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

/// The same on tensor cores, by chunks of at most 128 positions. T: BFloat16, Float16; sums,
/// factors and the state that a block walks along with are floats. What is multiplied is rounded to
/// T: the states that enter chunks, and the faded products of C with B.
/// The gradient of a decay is the sum of what fades by it, pair by pair of positions in float, so
/// that nothing larger cancels.
/// x B C y dy dx dB dC   has_tiled_rows
/// workspace   tiled_forward_scratch() of ssd_sizes(a), backward tiled_ssd_backward_scratch(sizes)
///             floats
template <class T>
SSM_CUDA_API void tiled_ssd_scan(const ssm::SsdScan<T, CudaSpace>& a, DeviceSegments segments,
                                 const DecayedSizes& sizes, float* workspace, Stream stream);
template <class T>
SSM_CUDA_API void tiled_ssd_scan_backward(const ssm::SsdScanBackward<T, CudaSpace>& g,
                                          DeviceSegments segments, const DecayedSizes& sizes,
                                          float* workspace, Stream stream);

template <class T, class Space>
DecayedSizes ssd_sizes(const ssm::SsdScan<T, Space>& a) {
  const Index batch = a.x.extent(0), length = a.x.extent(1);
  const Index keys = a.B.extent(3), values = a.x.extent(3);
  const Index chunk = HalfStorage<T> ? kDecayedTile : decayed_chunk(keys, values);
  return {.batch = batch,
          .length = length,
          .sequences = sequence_count(batch, a.segments),
          .heads = a.x.extent(2),
          .groups = a.B.extent(2),
          .keys = keys,
          .values = values,
          .chunks = sequence_chunks(batch, length, a.segments, chunk)};
}
/// Beside the passes' own: [2, B, L, H, P] outputs and gradients of values, [3, B, L, H] products
/// of those, [S, H, N, P] final states, [3, places, H] gradients of parameters.
constexpr Index ssd_backward_scratch(const DecayedSizes& n) {
  return n.backward_scratch() + n.rows() * (2 * n.values + 3) + n.sequences * n.state() +
         3 * n.chunks.places * n.heads;
}
/// Beside the passes' own and a gap of at most three numbers: [places, G, 128, 128] products of C
/// with B in the half type, [9 + 2·parts, places, H, 128] sums over positions and parts of 32
/// states, [3, places, H] gradients of parameters.
constexpr Index tiled_ssd_backward_scratch(const DecayedSizes& n) {
  const Index sums = (9 + 2 * ((n.keys + 31) / 32)) * kDecayedTile + 3;
  return n.tiled_backward_scratch() + 3 +
         n.chunks.places * (n.groups * kDecayedTile * kDecayedTile / 2 + n.heads * sums);
}

namespace primitive {

/// Of half types on tensor cores where Choice has them and operands are aligned, else in float, on
/// copies.
template <class Choice = Automatic>
struct BasicSsdScan {
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
  template <class Ctx, HalfStorage T>
  static void ssd_scan(Ctx& ctx, const ssm::SsdScan<T, typename Ctx::Space>& a) {
    const DecayedSizes sizes = ssd_sizes(a);
    if (!has_tiled_operands(a) || !has_tiled_rows(a.y) || !has_tiles(sizes))
      return ssm::detail::run_wide(ctx, a, [&](const auto& wide) { ssd_scan(ctx, wide); });
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<float>(sizes.tiled_forward_scratch());
      tiled_ssd_scan(on_device(a), segments, sizes, workspace.data(), stream);
    });
  }
  template <class Ctx, HalfStorage T>
  static void ssd_scan_backward(Ctx& ctx, const ssm::SsdScanBackward<T, typename Ctx::Space>& g) {
    const DecayedSizes sizes = ssd_sizes(g.forward);
    const bool has_rows = has_tiled_operands(g.forward) && has_tiled_rows(g.dy) &&
                          has_tiled_rows(g.dx) && has_tiled_rows(g.dB) && has_tiled_rows(g.dC);
    if (!has_rows || !has_tiles(sizes))
      return ssm::detail::run_wide_gradient<ssm::SsdScan>(
          ctx, g, [&](const auto& wide) { ssd_scan_backward(ctx, wide); });
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const auto segments = segments_on_device(ctx, frame, g.forward.segments);
      const auto workspace = frame.template tensor<float>(tiled_ssd_backward_scratch(sizes));
      tiled_ssd_scan_backward(on_device(g), segments, sizes, workspace.data(), stream);
    });
  }

 private:
  template <class Operands>
  static bool has_tiled_operands(const Operands& a) {
    return Choice::decayed_tiles() && has_tiled_rows(a.x) && has_tiled_rows(a.B) &&
           has_tiled_rows(a.C);
  }
};
/// The Cuda backend's part for SsdScan.
using SsdScan = BasicSsdScan<>;

}  // namespace primitive

}  // namespace ssm::cuda
