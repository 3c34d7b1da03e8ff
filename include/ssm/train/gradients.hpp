// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/op/optimizer_update.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// Sets every tensor of a parameter struct to zero: what each step's gradients start from.
template <HasRearrange B, class P>
void set_zero(Context<B>& ctx, P& gradients) {
  using One = Fill<typename P::Scalar, typename B::Space>;
  std::vector<One> fills;
  for_each_parameter(
      [&](const ParameterSpec&, auto& tensor) { fills.push_back({.y = tensor.flatten()}); },
      gradients);
  fill(ctx, std::span<const One>(fills));
}

/// Computes the sum of the squares over all tensors together, in double, in `sum`, [1].
/// list   overwritten: the operands of the sums, so that a later call allocates nothing
template <class B, class P>
  requires HasOptimizerUpdate<B> && HasRearrange<B>
void sum_squares(Context<B>& ctx, const P& gradients,
                 std::type_identity_t<View<double, 1, typename B::Space>> sum,
                 std::vector<SumOfSquares<typename P::Scalar, typename B::Space>>& list) {
  fill(ctx, Fill<double, typename B::Space>{.y = sum});
  list.clear();
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        list.push_back({.x = tensor.flatten(), .sum = sum});
      },
      gradients);
  sum_of_squares(ctx, std::span<const SumOfSquares<typename P::Scalar, typename B::Space>>(list));
}
/// The root of a sum of sum_squares, read on the host.
template <class Space>
double root_of_sum(const View<double, 1, Space>& sum) {
  double total = 0;
  Space::copy(&total, sum.data(), sizeof(total));
  return std::sqrt(total);
}

/// The 2-norm over all tensors together, as sum_squares. The result is read on the host.
template <class B, class P>
double global_norm(Context<B>& ctx, const P& gradients,
                   std::type_identity_t<View<double, 1, typename B::Space>> sum,
                   std::vector<SumOfSquares<typename P::Scalar, typename B::Space>>& list) {
  sum_squares(ctx, gradients, sum, list);
  return root_of_sum(sum);
}

/// The same with memory of its own.
template <class B, class P>
double global_norm(Context<B>& ctx, const P& gradients) {
  DynamicTensor<double, 1, typename B::Space> sum(DynamicExtents<1>(1));
  std::vector<SumOfSquares<typename P::Scalar, typename B::Space>> list;
  return global_norm(ctx, gradients, sum, list);
}

}  // namespace ssm
