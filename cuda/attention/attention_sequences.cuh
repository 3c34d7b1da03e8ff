// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/packing.cuh"
#include "ssm/op/attention.hpp"

namespace ssm::cuda::device {

/// The sequences of an attention call, and the keys that each of them has.
struct AttentionSequences {
  template <class T>
  AttentionSequences(const ssm::Attention<T, CudaSpace>& a, DeviceSegments segments,
                     const std::int64_t* cached_of_sequence)
      : packing(segments, a.q.extent(0), a.q.extent(1)),
        cached_of(cached_of_sequence),
        cached(a.k.extent(1) - a.q.extent(1)) {}

  /// As keys_of.
  SSM_HOST_DEVICE AttentionKeys keys(Sequence sequence) const {
    if (cached_of == nullptr) return {sequence.batch, sequence.begin, cached};
    return {sequence.row, 0, static_cast<Index>(cached_of[sequence.row])};
  }

  Packing packing;
  const std::int64_t* cached_of;  // by sequence, or null: `cached` for all
  Index cached;
};

}  // namespace ssm::cuda::device
