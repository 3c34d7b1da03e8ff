// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <span>
#include <type_traits>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/selective_scan.hpp"  // whether there are walks
#include "ssm/backend/cuda/sequence_chunks.hpp"
#include "ssm/op/cascaded_scan.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::CascadedScan and ssm::CascadedScanBackward. T:
/// float, double, half types; sums in Wide<T>. Where the call can be walked along
/// (`walks_in_cascade`), a block takes 32 channels of a chunk, four lanes to a channel. Else a
/// thread for every chunk of a channel. Where sequences are cut, each chunk is scanned from zero
/// states, and with it what the sources' states in front of it make of the cascaded one behind it;
/// then the states that enter the chunks are joined and the chunks scanned again: two exponentials
/// a state, position and scan instead of one.
/// chunks      cascaded_scan_chunks(a, false)
/// workspace   cascaded_scan_scratch(a, chunks) numbers
template <class T>
SSM_CUDA_API void cascaded_scan(const ssm::CascadedScan<T, CudaSpace>& a, DeviceSegments segments,
                                SequenceChunks chunks, Wide<T>* workspace, Stream stream);
/// A walk along the chunks keeps the states that enter every eighth position, a walk back computes
/// those between again. Else a warp takes 32 channels of a chunk, and one group of them after the
/// other. Sums over channels are of a block's or warp's channels in one order, then of the blocks'
/// or warps'.
/// chunks      cascaded_scan_chunks(g.forward, true)
/// workspace   cascaded_scan_backward_scratch(g.forward, chunks) numbers
template <class T>
SSM_CUDA_API void cascaded_scan_backward(const ssm::CascadedScanBackward<T, CudaSpace>& g,
                                         DeviceSegments segments, SequenceChunks chunks,
                                         Wide<T>* workspace, Stream stream);

/// Positions of a chunk in the backward pass, and those whose states a thread holds at once.
inline constexpr Index kCascadedChunk = 32;
inline constexpr int kCascadedTile = 4;

/// What a walk can take: so many states of a channel, so many sources. It keeps states every so
/// many positions.
inline constexpr Index kCascadedWalkStates = 16;
inline constexpr std::size_t kCascadedWalkSources = 2;
inline constexpr Index kCascadedWalkTile = 8;

template <class T, class Space>
bool walks_in_cascade(const ssm::CascadedScan<T, Space>& a) {
  return !std::is_same_v<T, double> && a.A.extent(1) <= kCascadedWalkStates &&
         a.sources.size() <= kCascadedWalkSources && has_selective_walk();
}
/// Chunks of a call. Sequences that give every multiprocessor of a large device a block are left
/// whole where a block walks.
template <class T, class Space>
SequenceChunks cascaded_scan_chunks(const ssm::CascadedScan<T, Space>& a, bool is_backward) {
  const Index batch = a.dt.extent(0), positions = a.dt.extent(1);
  if (!walks_in_cascade(a))
    return is_backward ? sequence_chunks(batch, positions, a.segments, kCascadedChunk)
                       : busy_chunks(batch, positions, a.segments, a.dt.size(), 64);
  const Index work = batch * positions * ((a.A.extent(0) + kWalkChannels - 1) / kWalkChannels);
  return sequence_chunks(batch, positions, a.segments,
                         std::max<Index>(64, (work / 128 + 31) / 32 * 32));
}
/// Blocks or warps that share the channels of a chunk in the backward pass.
template <class T, class Space>
Index cascaded_groups(const ssm::CascadedScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0);
  return walks_in_cascade(a) ? (channels + kWalkChannels - 1) / kWalkChannels
                             : chunk_warps(chunks.places, channels);
}

/// For every place: [m + 1, N, D] of states, [m, N, D] of what passes through, [m + 1, D] of steps.
template <class T, class Space>
Index cascaded_scan_scratch(const ssm::CascadedScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  const Index sources = static_cast<Index>(a.sources.size());
  return chunks.places * channels * ((2 * sources + 1) * states + sources + 1);
}
/// States that the backward pass keeps, for every place: of each of its blocks [tiles, 3, 128, 4],
/// or of its warps [tiles, m + 1, N, 32].
template <class T, class Space>
Index cascaded_kept_states(const ssm::CascadedScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index groups = chunks.places * cascaded_groups(a, chunks);
  if (!walks_in_cascade(a))
    return groups * (kCascadedChunk / kCascadedTile) * static_cast<Index>(a.sources.size() + 1) *
           a.A.extent(1) * kWarpChannels;
  return groups * ((chunks.length + kCascadedWalkTile - 1) / kCascadedWalkTile) *
         static_cast<Index>(kCascadedWalkSources + 1) * kCascadedWalkStates * kWalkChannels;
}
/// Beside that the kept states, and for every place [2, m + 1, N, D] of adjoints and of gradients
/// of A. Then [m + 1, groups, B, L, N] of gradients of B and C.
template <class T, class Space>
Index cascaded_scan_backward_scratch(const ssm::CascadedScan<T, Space>& a,
                                     const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  const Index scans = static_cast<Index>(a.sources.size()) + 1;
  return cascaded_scan_scratch(a, chunks) + 4 + cascaded_kept_states(a, chunks) +
         chunks.places * scans * states * 2 * channels +
         scans * cascaded_groups(a, chunks) * a.C.size();
}

namespace primitive {
struct CascadedScan {
  template <class Ctx, DeviceNumber T>
  static void cascaded_scan(Ctx& ctx, const ssm::CascadedScan<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks = cascaded_scan_chunks(a, false);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace = frame.template tensor<Wide<T>>(cascaded_scan_scratch(a, chunks));
      const Sources<T> sources(a.sources);
      auto call = on_device(a);
      call.sources = sources.all();
      cuda::cascaded_scan(call, segments, chunks, workspace.data(), stream);
    });
  }
  template <class Ctx, DeviceNumber T>
  static void cascaded_scan_backward(Ctx& ctx,
                                     const ssm::CascadedScanBackward<T, typename Ctx::Space>& g) {
    queue(ctx, [&](Stream stream) {
      const auto& a = g.forward;
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks = cascaded_scan_chunks(a, true);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace =
          frame.template tensor<Wide<T>>(cascaded_scan_backward_scratch(a, chunks));
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
