// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/backend/cuda/sequence_chunks.hpp"
#include "ssm/op/selective_scan.hpp"

namespace ssm::cuda {

/// The compiled half; formulas and shapes as ssm::SelectiveScan and ssm::SelectiveScanBackward. T:
/// float, double, half types; sums in Wide<T>. Where the call can be walked along (`walks`), a
/// block takes 32 channels of a chunk, four lanes to a channel, tiles of positions in shared
/// memory. Else a thread for every chunk of a channel. Where sequences are cut, each chunk is
/// scanned from a zero state, the states that enter the chunks are joined, and the chunks are
/// scanned again: two exponentials a state and position instead of one.
/// chunks      selective_scan_chunks(a, false)
/// workspace   selective_scan_scratch(a, chunks) numbers
template <class T>
SSM_CUDA_API void selective_scan(const ssm::SelectiveScan<T, CudaSpace>& a, DeviceSegments segments,
                                 SequenceChunks chunks, Wide<T>* workspace, Stream stream);
/// A walk along the chunks keeps the states that enter every eighth position (every 16th of 17 to
/// 32 states), a walk back computes those between again: two exponentials a state and position,
/// under three of more than 16 states. Else a warp takes 32 channels of a chunk, and one group of
/// them after the other; states are computed again from those that enter the chunks, with four or
/// five exponentials. Chunks of adjoints are joined like those of states. Sums over channels are of
/// a block's or warp's channels in one order, then of the blocks' or warps'.
/// chunks      selective_scan_chunks(g.forward, true)
/// workspace   selective_scan_backward_scratch(g.forward, chunks) numbers
template <class T>
SSM_CUDA_API void selective_scan_backward(const ssm::SelectiveScanBackward<T, CudaSpace>& g,
                                          DeviceSegments segments, SequenceChunks chunks,
                                          Wide<T>* workspace, Stream stream);

/// Whether there are kernels that walk: on every device, not where kernels are plain loops.
SSM_CUDA_API bool has_selective_walk();

/// Channels of a block that walks, and the most states that it can take.
inline constexpr Index kWalkChannels = 32;
inline constexpr Index kWalkStates = 64;

template <class T, class Space>
bool walks(const ssm::SelectiveScan<T, Space>& a) {
  return !std::is_same_v<T, double> && a.A.extent(1) <= kWalkStates && has_selective_walk();
}
/// States of a channel that a block computes, zeros among them, and positions of a tile of a walk.
constexpr Index walk_states(Index states) {
  return states <= 16 ? 16 : states <= 32 ? 32 : kWalkStates;
}
constexpr Index walk_tile(Index states) { return states <= 16 ? 32 : states <= 32 ? 16 : 8; }
/// Positions between the states that a walk keeps.
constexpr Index walk_keep(Index states) { return states <= 16 || states > 32 ? 8 : 16; }

/// States that a thread holds at once in the forward pass.
inline constexpr int kSelectiveStates = 16;
/// Positions of a chunk in the backward pass, and those whose states a thread holds at once.
inline constexpr Index kSelectiveChunk = 32;
inline constexpr int kSelectiveTile = 8;

template <class T, class Space>
Index selective_scan_scratch(const ssm::SelectiveScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  if (chunks.whole && (walks(a) || states <= kSelectiveStates)) return 0;
  return chunks.places * channels * (states + 1);
}
/// Blocks or warps that share the channels of a chunk in the backward pass.
template <class T, class Space>
Index selective_groups(const ssm::SelectiveScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0);
  if (walks(a)) return (channels + kWalkChannels - 1) / kWalkChannels;
  return chunk_warps(chunks.places, channels);
}
/// Numbers of the states that the backward pass keeps, for every place: of each of its blocks or
/// warps [tiles, N, 32]; a walk's N is walk_states(N), its tiles are of walk_keep(N) positions.
template <class T, class Space>
Index selective_kept_states(const ssm::SelectiveScan<T, Space>& a, const SequenceChunks& chunks) {
  const Index states = a.A.extent(1);
  const Index groups = chunks.places * selective_groups(a, chunks);
  if (!walks(a)) return groups * (kSelectiveChunk / kSelectiveTile) * states * kWarpChannels;
  const Index keep = walk_keep(states);
  return groups * ((chunks.length + keep - 1) / keep) * walk_states(states) * kWalkChannels;
}
/// The kept states. For every place: [N, D] of states, adjoints and gradients of A; [D] of steps
/// and of gradients of skip and bias. Then [2, groups, B, L, N] of gradients of B and C.
template <class T, class Space>
Index selective_scan_backward_scratch(const ssm::SelectiveScan<T, Space>& a,
                                      const SequenceChunks& chunks) {
  const Index channels = a.A.extent(0), states = a.A.extent(1);
  return chunks.places * 3 * channels * (states + 1) + selective_kept_states(a, chunks) +
         2 * selective_groups(a, chunks) * a.B.size();
}

/// Chunks of a call. Those of a walk give every multiprocessor of a large device several blocks;
/// sequences that do without being cut, or nearly so, are left whole.
template <class T, class Space>
SequenceChunks selective_scan_chunks(const ssm::SelectiveScan<T, Space>& a, bool is_backward) {
  const Index batch = a.u.extent(0), positions = a.u.extent(1);
  if (!walks(a))
    return is_backward ? sequence_chunks(batch, positions, a.segments, kSelectiveChunk)
                       : busy_chunks(batch, positions, a.segments, a.u.size(), 64);
  const Index work = batch * positions * ((a.A.extent(0) + kWalkChannels - 1) / kWalkChannels);
  const SequenceChunks long_ones =
      sequence_chunks(batch, positions, a.segments, std::max<Index>(64, work / 192));
  if (long_ones.whole) return long_ones;
  return sequence_chunks(batch, positions, a.segments,
                         std::max<Index>(64, (work / 512 + 31) / 32 * 32));
}

namespace primitive {
struct SelectiveScan {
  template <class Ctx, DeviceNumber T>
  static void selective_scan(Ctx& ctx, const ssm::SelectiveScan<T, typename Ctx::Space>& a) {
    queue(ctx, [&](Stream stream) {
      auto frame = ctx.workspace().frame();
      const SequenceChunks chunks = selective_scan_chunks(a, false);
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
      const SequenceChunks chunks = selective_scan_chunks(a, true);
      const auto segments = segments_on_device(ctx, frame, a.segments);
      const auto workspace =
          frame.template tensor<Wide<T>>(selective_scan_backward_scratch(a, chunks));
      cuda::selective_scan_backward(on_device(g), segments, chunks, workspace.data(), stream);
    });
  }
};
}  // namespace primitive

}  // namespace ssm::cuda
