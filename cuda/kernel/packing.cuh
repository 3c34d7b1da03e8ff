// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/on_device.hpp"  // DeviceSegments

namespace ssm::cuda::device {

/// The sequences of a batch, or of a packed row.
struct Packing {
  Packing(DeviceSegments segments, Index batch_rows, Index positions)
      : offsets(segments.offsets),
        sequences(segments.offsets != nullptr ? segments.count : batch_rows),
        length(positions) {}

  SSM_HOST_DEVICE Sequence sequence(Index row) const {
    if (offsets == nullptr) return {row, row, 0, length};
    return {row, 0, offsets[row], offsets[row + 1]};
  }
  /// The one that position t of batch row b belongs to.
  SSM_HOST_DEVICE Sequence sequence_with(Index b, Index t) const {
    if (offsets == nullptr) return {b, b, 0, length};
    Index low = 0;  // offsets[low] ≤ t < offsets[high]
    Index high = sequences;
    while (high - low > 1) {
      const Index middle = low + (high - low) / 2;
      (offsets[middle] <= t ? low : high) = middle;
    }
    return {low, 0, offsets[low], offsets[low + 1]};
  }

  const Index* offsets;
  Index sequences;
  Index length;
};

/// Element i of [B, L, D], counted so that neighbors in memory are neighbors.
struct Positions {
  struct Place {
    Index b;
    Index t;
    Index d;
  };
  template <class T, class Space>
  explicit Positions(const View<T, 3, Space>& x) : Positions(x, x) {}
  /// In the order of another tensor of as many positions.
  template <class T, class U, class Space>
  Positions(const View<T, 3, Space>& x, const View<U, 3, Space>& order)
      : length(x.extent(1)),
        channels(x.extent(2)),
        size(x.size()),
        positions_contiguous(order.stride(1) < order.stride(2)) {}

  SSM_HOST_DEVICE Place place(Index i) const {
    if (positions_contiguous) return {i / length / channels, i % length, i / length % channels};
    return {i / channels / length, i / channels % length, i % channels};
  }

  Index length;
  Index channels;
  Index size;
  bool positions_contiguous;
};

/// An element of an operand that may have been left out.
template <class T, class V, class... I>
SSM_HOST_DEVICE T value_or(T otherwise, const V& view, I... index) {
  return view ? view(index...) : otherwise;
}

}  // namespace ssm::cuda::device
