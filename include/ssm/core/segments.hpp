// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "ssm/core/error.hpp"  // Index, ShapeError

namespace ssm {

/// Packed sequences of different lengths: offsets 0 = c₀ ≤ c₁ ≤ … ≤ c_S = L along the length axis
/// of a batch of one. Segment i is positions c_i … c_{i+1}−1; it may be empty. An empty span means
/// "not packed".
using Segments = std::span<const Index>;

/// How many sequences, and therefore how many rows of state, a [B, L, …] operand holds.
inline Index sequence_count(Index batch, Segments segments) {
  return segments.empty() ? batch : static_cast<Index>(segments.size()) - 1;
}

/// Whether the offsets rise from 0 to `length` and the batch is one; or nothing is packed.
inline bool are_segments(Segments segments, Index batch, Index length) {
  if (segments.empty()) return true;
  if (batch != 1 || segments.size() < 2 || segments.front() != 0 || segments.back() != length)
    return false;
  for (std::size_t i = 1; i < segments.size(); ++i)
    if (segments[i] < segments[i - 1]) return false;
  return true;
}

namespace detail {
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_segments(std::string_view op,
                                                                   Segments segments, Index batch,
                                                                   Index length) {
  if (batch != 1)
    throw ShapeError(op, "batch", message({"must be 1 with packed segments, got ", batch}));
  std::size_t wrong = 0;
  while (wrong < segments.size() && segments[wrong] <= length &&
         (wrong == 0 ? segments[wrong] == 0 : segments[wrong] >= segments[wrong - 1]))
    ++wrong;
  if (wrong == segments.size()) --wrong;
  throw ShapeError(op, "segments",
                   message({"must rise from 0 to the length ", length, ", but offset ", wrong,
                            " of ", segments.size(), " is ", segments[wrong]}));
}
}  // namespace detail

/// Throws  ShapeError  unless the offsets rise from 0 to `length` and the batch is one
inline void require_segments(std::string_view op, Segments segments, Index batch, Index length) {
  if (!are_segments(segments, batch, length)) detail::refuse_segments(op, segments, batch, length);
}

/// One sequence of a batch or of a packed row: `row` counts states, `batch` is the axis of the
/// operand.
struct Sequence {
  Index row;
  Index batch;
  Index begin;
  Index end;
};

/// The sequence of that row: all positions of an element of the batch, or one segment where there
/// are any.
inline Sequence sequence_at(Index row, Index length, Segments segments) {
  if (segments.empty()) return {.row = row, .batch = row, .begin = 0, .end = length};
  const auto i = static_cast<std::size_t>(row);
  return {.row = row, .batch = 0, .begin = segments[i], .end = segments[i + 1]};
}

/// Calls `visit(Sequence)` for every sequence, in order.
template <class F>
void for_each_sequence(Index batch, Index length, Segments segments, F&& visit) {
  for (Index row = 0; row < sequence_count(batch, segments); ++row)
    visit(sequence_at(row, length, segments));
}

}  // namespace ssm
