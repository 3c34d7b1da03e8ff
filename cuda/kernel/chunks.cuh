// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel/packing.cuh"
#include "ssm/backend/cuda/sequence_chunks.hpp"

namespace ssm::cuda::device {

/// Positions begin … end−1 of a sequence, and where their numbers lie in scratch memory.
struct Chunk {
  Sequence s;
  Index place;
  Index begin;
  Index end;
  bool exists;  // false where the place is unused; then it has no positions
};

/// Sequences cut into chunks.
struct Chunking {
  Chunking(DeviceSegments segments, Index batch_rows, Index positions, SequenceChunks chunks)
      : packing(segments, batch_rows, positions),
        length(chunks.length),
        places(chunks.places),
        whole(chunks.whole),
        of_batch_row(at_least_one((positions + chunks.length - 1) / chunks.length)) {}

  /// The place of a sequence's first chunk.
  SSM_HOST_DEVICE Index first(const Sequence& s) const {
    return packing.offsets != nullptr ? s.begin / length + s.row : s.row * count(s);
  }
  SSM_HOST_DEVICE static Index at_least_one(Index n) { return n > 1 ? n : 1; }
  /// How many chunks a sequence has.
  SSM_HOST_DEVICE Index count(const Sequence& s) const {
    return packing.offsets == nullptr ? of_batch_row
                                      : at_least_one((s.end - s.begin + length - 1) / length);
  }
  SSM_HOST_DEVICE Chunk at(Index place) const {
    const Sequence s = packing.sequence(row_of(place));
    const Index number = place - first(s);
    const bool exists = number < count(s);
    const Index begin = exists ? s.begin + number * length : s.end;
    const Index end = s.end - begin < length ? s.end : begin + length;
    return {s, place, begin, end, exists};
  }

  Packing packing;
  Index length;
  Index places;
  bool whole;
  Index of_batch_row;  // chunks of a sequence that is not packed

 private:
  SSM_HOST_DEVICE Index row_of(Index place) const {
    if (packing.offsets == nullptr) return place / of_batch_row;
    Index low = 0;  // first(low) ≤ place < first(high)
    Index high = packing.sequences;
    while (high - low > 1) {
      const Index middle = low + (high - low) / 2;
      (packing.offsets[middle] / length + middle <= place ? low : high) = middle;
    }
    return low;
  }
};

constexpr Index kPlacesAtOnce = 32;  // places that one thread adds

/// partial[first place of slice, j] = Σ partial[p, j] over a slice of places.
template <class T>
struct PlaceSlices {
  SSM_DEVICE void operator()(Index i) const {
    const Index begin = i / width * kPlacesAtOnce;
    const Index end = places - begin < kPlacesAtOnce ? places : begin + kPlacesAtOnce;
    T sum{};
    for (Index p = begin; p < end; ++p) sum += partial[p * width + i % width];
    partial[begin * width + i % width] = sum;
  }

  Index places;
  Index width;
  T* partial;
};

/// finish(j, Σ partial[p, j]) over every step-th place.
template <class T, class F>
struct PlaceSum {
  SSM_DEVICE void operator()(Index j) const {
    double sum = 0;
    for (Index p = 0; p < places; p += step) sum += partial[p * width + j];
    finish(j, sum);
  }

  Index places;
  Index width;
  Index step;
  const T* partial;
  F finish;
};

/// finish(j, Σ_p partial[p, j]) for every j < width, in one order of additions: of slices of
/// places, then of their sums in double.
/// partial   [places, width]   overwritten
template <class T, class F>
void sum_over_places(Index places, Index width, T* partial, Stream stream, const char* operation,
                     F finish) {
  const Index slices = (places + kPlacesAtOnce - 1) / kPlacesAtOnce;
  if (slices > 1)
    for_each_index(slices * width, stream, operation, PlaceSlices<T>{places, width, partial});
  for_each_index(width, stream, operation,
                 PlaceSum<T, F>{places, width, slices > 1 ? kPlacesAtOnce : 1, partial, finish});
}

}  // namespace ssm::cuda::device
