// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/core/segments.hpp"

namespace ssm::cuda {

/// How sequences are cut into chunks of positions that are computed at the same time. Each chunk
/// has a place in scratch memory; packed sequences leave some places unused.
struct SequenceChunks {
  Index length = 1;   // positions of a chunk; the last of a sequence may be shorter
  Index places = 0;   // at least one for every sequence, empty ones too
  bool whole = true;  // no sequence is cut
};

/// Chunks of `length` positions, or of the longest sequence's if that is shorter.
inline SequenceChunks sequence_chunks(Index batch, Index positions, Segments segments,
                                      Index length) {
  Index longest = positions;
  if (!segments.empty()) {
    longest = 0;
    for (std::size_t i = 1; i < segments.size(); ++i)
      longest = std::max(longest, segments[i] - segments[i - 1]);
  }
  const Index size = std::max<Index>(1, std::min(length, longest));
  const Index cuts = std::max<Index>(1, (positions + size - 1) / size);
  const Index places =
      segments.empty() ? batch * cuts : positions / size + sequence_count(batch, segments);
  return {size, places, longest <= size};
}

/// Chunks that divide `work`, the positions of all sequences times what runs beside them, among
/// about 2^17 threads, and are of at least `shortest` positions.
inline SequenceChunks busy_chunks(Index batch, Index positions, Segments segments, Index work,
                                  Index shortest) {
  return sequence_chunks(batch, positions, segments, std::max(shortest, work >> 17));
}

/// Channels that a warp of a backward pass takes at once.
inline constexpr Index kWarpChannels = 32;

/// Warps that share the channels of a chunk: so many that all chunks have about 4096.
constexpr Index chunk_warps(Index places, Index channels) {
  const Index all = (channels + kWarpChannels - 1) / kWarpChannels;
  return std::clamp<Index>(4096 / std::max<Index>(places, 1), 1, std::max<Index>(all, 1));
}

}  // namespace ssm::cuda
