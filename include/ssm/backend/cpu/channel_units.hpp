// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/parallel.hpp"  // Range

namespace ssm::cpu {

/// How sequences and blocks of channels are shared out among threads: a unit is a slot of sequences
/// and a group of neighboring blocks. Sums over sequences are kept by slot, sums over channels by
/// group, and added up in order.
struct ChannelUnits {
  Index sequences, blocks, slots, groups;

  ChannelUnits(int threads, Index sequence_count, Index block_count, Index max_slots,
               Index largest_group)
      : sequences(sequence_count),
        blocks(block_count),
        slots(std::clamp<Index>(sequence_count, 1, std::max<Index>(1, max_slots))),
        groups((block_count + largest_group - 1) / largest_group) {
    if (slots * groups % threads != 0)
      groups = std::min(blocks, (groups + threads - 1) / threads * threads);
    groups = std::max<Index>(groups, 1);
  }

  Index size() const { return slots * groups; }
  Range slot(Index unit) const {
    const Index i = unit / groups;
    return {sequences * i / slots, sequences * (i + 1) / slots};
  }
  Range group(Index unit) const {
    const Index i = unit % groups;
    return {blocks * i / groups, blocks * (i + 1) / groups};
  }
  Index widest_group() const { return (blocks + groups - 1) / groups; }
};

}  // namespace ssm::cpu
