// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct RunningMeanBackward;

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
  View<const Wide<T>, 2, Space> initial_sum{};
  View<const std::int64_t, 1, Space> position{};
  View<Wide<T>, 2, Space> final_sum{};
  View<T, 3, Space> y{};

  static constexpr const char* name = "running_mean";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = RunningMeanBackward<T, Space>;
    visit(input("x", "BLD"), &RunningMean::x, &Gradient::dx);
    visit(ssm::initial_state("initial_sum", "SD"), &RunningMean::initial_sum,
          &Gradient::dinitial_sum);
    visit(input("position", "S").optional(), &RunningMean::position, nullptr);
    visit(ssm::final_state("final_sum", "SD"), &RunningMean::final_sum, &Gradient::dfinal_sum);
    visit(output("y", "BLD"), &RunningMean::y, &Gradient::dy);
    visit(again("position", "S").optional(), &RunningMean::position, &Gradient::position);
  }
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
  View<const Wide<T>, 2, Space> dfinal_sum{};  // optional, zero if left out
  View<T, 3, Space> dx{};
  View<Wide<T>, 2, Space> dinitial_sum{};
};

/// Backends that have the primitive RunningMean.
template <class B, class T = float>
concept HasRunningMean = requires(Context<B>& ctx, const RunningMean<Wide<T>, typename B::Space>& a,
                                  const RunningMeanBackward<Wide<T>, typename B::Space>& g) {
  B::running_mean(ctx, a);
  B::running_mean_backward(ctx, g);
};

/// Computes RunningMean, whose docstring says the rest.
template <class B, class T>
  requires HasRunningMean<B, T>
void running_mean(Context<B>& ctx, const RunningMean<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::running_mean(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::running_mean(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { running_mean(ctx, wide); });
  }
}

/// Computes RunningMeanBackward, whose docstring says the rest.
template <class B, class T>
  requires HasRunningMean<B, T>
void running_mean_backward(Context<B>& ctx, const RunningMeanBackward<T, typename B::Space>& g) {
  require_gradients<RunningMean<T, typename B::Space>>(g);
  if constexpr (requires { B::running_mean_backward(ctx, g); }) {
    if (detail::runs_across_ranks(ctx, g, RunningMean<T, typename B::Space>::name)) return;
    B::running_mean_backward(ctx, g);
  } else {
    detail::run_wide_gradient<RunningMean>(
        ctx, g, [&](const auto& wide) { running_mean_backward(ctx, wide); });
  }
}

}  // namespace ssm
