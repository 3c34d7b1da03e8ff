// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sequence_chunks.hpp"
#include "ssm/op/cascaded_scan.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::CascadedScan and ssm::CascadedScanBackward. T:
/// float, double; sums in T. A thread for every chunk of a channel. Where sequences are cut, each
/// chunk is scanned from zero states, and with it what the sources' states in front of it make of
/// the cascaded one behind it; then the states that enter the chunks are joined and the chunks
/// scanned again: two exponentials a state, position and scan instead of one.
/// workspace   cascaded_scan_scratch(a, chunks) numbers
template <class T>
SSM_CUDA_API void cascaded_scan(const ssm::CascadedScan<T, CudaSpace>& a, DeviceSegments segments,
                                SequenceChunks chunks, T* workspace, Stream stream);
/// A warp takes 32 channels of a chunk, and one group of them after the other. Sums over channels
/// are of a warp's channels in one order, then of the warps'.
/// workspace   cascaded_scan_backward_scratch(g.forward, chunks) numbers
template <class T>
SSM_CUDA_API void cascaded_scan_backward(const ssm::CascadedScanBackward<T, CudaSpace>& g,
                                         DeviceSegments segments, SequenceChunks chunks,
                                         T* workspace, Stream stream);

/// Positions of a chunk in the backward pass, and those whose states a thread holds at once.
inline constexpr Index kCascadedChunk = 32;
inline constexpr int kCascadedTile = 4;

/// For every place: [m + 1, N, D] of states, [m, N, D] of what passes through, [m + 1, D] of steps.
template <class T, class Space>
Index cascaded_scan_scratch(const ssm::CascadedScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  const Index sources = static_cast<Index>(a.sources.size());
  return chunks.places * channels * ((2 * sources + 1) * states + sources + 1);
}
/// Beside that for every place: [2, m + 1, N, D] of adjoints and of gradients of A; of each of its
/// warps [tiles, m + 1, N, 32] of states. Then [m + 1, warps, B, L, N] of gradients of B and C.
template <class T, class Space>
Index cascaded_scan_backward_scratch(const ssm::CascadedScan<T, Space>& a,
                                     const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  const Index scans = static_cast<Index>(a.sources.size()) + 1;
  const Index groups = chunk_warps(chunks.places, channels);
  constexpr Index tiles = kCascadedChunk / kCascadedTile;
  return cascaded_scan_scratch(a, chunks) +
         chunks.places * scans * states * (2 * channels + groups * tiles * kWarpChannels) +
         scans * groups * a.C.size();
}

namespace primitive {
struct CascadedScan {
  template <class Ctx, DeviceScalar T>
  static void cascaded_scan(Ctx& ctx, const ssm::CascadedScan<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks =
          busy_chunks(a.dt.extent(0), a.dt.extent(1), a.segments, a.dt.size(), 64);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<T>(cascaded_scan_scratch(a, chunks));
      const Sources<T> sources(a.sources);
      auto call = on_device(a);
      call.sources = sources.all();
      cuda::cascaded_scan(call, segments, chunks, workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceScalar T>
  static void cascaded_scan_backward(Ctx& ctx,
                                     const ssm::CascadedScanBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      const auto& a = g.forward;
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks =
          sequence_chunks(a.dt.extent(0), a.dt.extent(1), a.segments, kCascadedChunk);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<T>(cascaded_scan_backward_scratch(a, chunks));
      const Sources<T> sources(a.sources), dsources(g.dsources);
      auto call = on_device(g);
      call.forward.sources = sources.all();
      call.dsources = dsources.all();
      cuda::cascaded_scan_backward(call, segments, chunks, workspace.data(), stream);
    });
  }

 private:
  /// Sources as the compiled functions take them.
  template <class T>
  class Sources {
    using OnDevice = ScanInputs<T, CudaSpace>;

   public:
    template <class Space>
    explicit Sources(std::span<const ScanInputs<T, Space>> sources) : count_(sources.size()) {
      for (std::size_t i = 0; i < count_; ++i) sources_[i] = std::bit_cast<OnDevice>(sources[i]);
    }
    std::span<const OnDevice> all() const { return {sources_.data(), count_}; }

   private:
    std::array<OnDevice, ssm::CascadedScan<T, CudaSpace>::max_sources> sources_;
    std::size_t count_;
  };
};
}  // namespace primitive

}  // namespace ssm::cuda
