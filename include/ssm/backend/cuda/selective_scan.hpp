// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sequence_chunks.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::SelectiveScan and ssm::SelectiveScanBackward. T:
/// float, double, half types; sums in Wide<T>. A thread for every chunk of a channel. Where
/// sequences are cut, each chunk is scanned from a zero state, the states that enter the chunks are
/// joined, and the chunks are scanned again: two exponentials a state and position instead of one.
/// workspace   selective_scan_scratch(a, chunks) numbers
template <class T>
SSM_CUDA_API void selective_scan(const ssm::SelectiveScan<T, CudaSpace>& a, DeviceSegments segments,
                                 SequenceChunks chunks, Wide<T>* workspace, Stream stream);
/// A warp takes 32 channels of a chunk, and one group of them after the other. States are computed
/// again from those that enter the chunks; chunks of adjoints are joined like those of states: four
/// or five exponentials a state and position. Sums over channels are of a warp's channels in one
/// order, then of the warps'.
/// workspace   selective_scan_backward_scratch(g.forward, chunks) numbers
template <class T>
SSM_CUDA_API void selective_scan_backward(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                                          DeviceSegments segments, SequenceChunks chunks,
                                          Wide<T>* workspace, Stream stream);

/// States that a thread holds at once in the forward pass.
inline constexpr int kSelectiveStates = 16;
/// Positions of a chunk in the backward pass, and those whose states a thread holds at once.
inline constexpr Index kSelectiveChunk = 32;
inline constexpr int kSelectiveTile = 8;

template <class T, class Space>
Index selective_scan_scratch(const ssm::SelectiveScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  if (chunks.whole && states <= kSelectiveStates) return 0;
  return chunks.places * channels * (states + 1);
}
/// For every place: [N, D] of states, adjoints and gradients of A; [D] of steps and of gradients of
/// skip and bias; of each of its warps [tiles, N, 32] of states. Then [2, warps, B, L, N] of
/// gradients of B and C.
template <class T, class Space>
Index selective_scan_backward_scratch(const ssm::SelectiveScan<T, Space>& a,
                                      const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  const Index groups = chunk_warps(chunks.places, channels);
  constexpr Index tiles = kSelectiveChunk / kSelectiveTile;
  return chunks.places * (3 * channels * (states + 1) + groups * tiles * states * kWarpChannels) +
         2 * groups * a.B.size();
}

namespace primitive {
struct SelectiveScan {
  template <class Ctx, DeviceNumber T>
  static void selective_scan(Ctx& ctx, const ssm::SelectiveScan<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks =
          busy_chunks(a.u.extent(0), a.u.extent(1), a.segments, a.u.size(), 64);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<Wide<T>>(selective_scan_scratch(a, chunks));
      cuda::selective_scan(on_device(a), segments, chunks, workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceNumber T>
  static void selective_scan_backward(Ctx& ctx,
                                      const ssm::SelectiveScanBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      const auto& a = g.forward;
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks =
          sequence_chunks(a.u.extent(0), a.u.extent(1), a.segments, kSelectiveChunk);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace =
          frame.template tensor<Wide<T>>(selective_scan_backward_scratch(a, chunks));
      cuda::selective_scan_backward(on_device(g), segments, chunks, workspace.data(), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
