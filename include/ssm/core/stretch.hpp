// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "ssm/core/segments.hpp"
#include "ssm/core/sequence_cut.hpp"

namespace ssm {

/// The positions begin … end−1 of a sequence.
struct Stretch {
  Index begin = 0;
  Index end = 0;
  Index length() const { return end - begin; }
};

/// What of a packed row lies on a rank.
struct PackedStretch {
  std::vector<Index> segments;      // offsets within the stretch
  std::vector<SequencePart> parts;  // one for each
};

/// Cuts the segments of a packed row at the ends of a stretch. A stretch without positions in no
/// sequence has one segment, which is empty.
inline PackedStretch cut_segments(Segments segments, const Stretch& stretch) {
  PackedStretch result{.segments = {0}, .parts = {}};
  const auto add = [&](Index end, const SequencePart& part) {
    result.segments.push_back(end);
    result.parts.push_back(part);
  };
  for (std::size_t i = 0; i + 1 < segments.size(); ++i) {
    const Index begin = segments[i], end = segments[i + 1];
    const bool continues = begin < stretch.begin && stretch.begin < end;
    const bool goes_on = begin < stretch.end && stretch.end < end;
    const bool begins_here =
        stretch.begin <= begin && (begin < stretch.end || (begin == end && end == segments.back()));
    if (continues || begins_here)
      add(std::min(end, stretch.end) - stretch.begin,
          {.before = continues ? stretch.begin - begin : 0,
           .continues = continues,
           .goes_on = goes_on});
  }
  if (result.parts.empty()) add(stretch.length(), {});
  return result;
}

/// A rank's stretch of a sequence of that length: equal parts, to a position.
inline Stretch stretch_of(Index length, int rank, int ranks) {
  return {length * rank / ranks, length * (rank + 1) / ranks};
}

}  // namespace ssm
