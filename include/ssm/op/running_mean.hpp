// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// The mean of every channel over all positions so far; at the last position, over the sequence.
///   y[b,t,d] = (initial_sum[s,d] + Σ_{i≤t} x[b,i,d]) / (position[s] + t + 1)
/// with t counted in its sequence s.
/// x             [B, L, D]
/// segments      optional: B = 1, each segment is a sequence with a row of sums
/// initial_sum   [S, D]      optional, zero if left out; S sequences
/// position      [S]         optional, zero if left out: how many positions the sums are of
/// final_sum     [S, D]      optional, overwritten; may be the same memory as initial_sum
/// y             [B, L, D]   overwritten; may be the same memory as x
/// Cost    O(B·L·D), D numbers of workspace
/// Throws  ShapeError  if B, L, D or S disagree
template <class T, class Space>
struct RunningMean {
  View<const T, 3, Space> x{};
  Segments segments{};
  View<const T, 2, Space> initial_sum{};
  View<const std::int64_t, 1, Space> position{};
  View<T, 2, Space> final_sum{};
  View<T, 3, Space> y{};
};

/// The vector–Jacobian product of RunningMean. Gradients of x and of the initial sum are
/// overwritten; each may be left out.
///   dx[b,t,d] = dfinal_sum[s,d] + Σ_{i≥t} dy[b,i,d] / (position[s] + i + 1)
/// dx   may be the same memory as dy
template <class T, class Space>
struct RunningMeanBackward {
  Segments segments{};
  View<const std::int64_t, 1, Space> position{};
  View<const T, 3, Space> dy{};
  View<const T, 2, Space> dfinal_sum{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<T, 2, Space> dinitial_sum{};
};

/// Backends that have the primitive RunningMean.
template <class B, class T = float>
concept HasRunningMean = requires(Context<B>& ctx, const RunningMean<T, typename B::Space>& a,
                                  const RunningMeanBackward<T, typename B::Space>& g) {
  B::running_mean(ctx, a);
  B::running_mean_backward(ctx, g);
};

/// Computes RunningMean, whose docstring says the rest.
template <class B, class T>
  requires HasRunningMean<B, T>
void running_mean(Context<B>& ctx, const RunningMean<T, typename B::Space>& a) {
  const char* op = "running_mean";
  require_extents(op, "x", a.x, {dyn, dyn, dyn});
  const auto shape = a.x.extents().to_array();
  require_segments(op, a.segments, shape[0], shape[1]);
  const Index sequences = sequence_count(shape[0], a.segments);
  require_extents_if_given(op, "initial_sum", a.initial_sum, {sequences, shape[2]});
  require_extents_if_given(op, "position", a.position, {sequences});
  require_extents_if_given(op, "final_sum", a.final_sum, {sequences, shape[2]});
  require_extents(op, "y", a.y, shape);
  B::running_mean(ctx, a);
}

/// Computes RunningMeanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasRunningMean<B, T>
void running_mean_backward(Context<B>& ctx, const RunningMeanBackward<T, typename B::Space>& g) {
  const char* op = "running_mean_backward";
  require_extents(op, "dy", g.dy, {dyn, dyn, dyn});
  const auto shape = g.dy.extents().to_array();
  require_segments(op, g.segments, shape[0], shape[1]);
  const Index sequences = sequence_count(shape[0], g.segments);
  require_extents_if_given(op, "position", g.position, {sequences});
  require_extents_if_given(op, "dfinal_sum", g.dfinal_sum, {sequences, shape[2]});
  require_extents_if_given(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dinitial_sum", g.dinitial_sum, {sequences, shape[2]});
  B::running_mean_backward(ctx, g);
}

}  // namespace ssm
