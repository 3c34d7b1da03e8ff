// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/op/optimizer_update.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// Sets every tensor of a parameter struct to zero: what each step's gradients start from.
template <HasRearrange B, class P>
void set_zero(Context<B>& ctx, P& gradients) {
  for_each_parameter(
      [&](const ParameterSpec&, auto& tensor) {
        fill(ctx, Fill<typename P::Scalar, typename B::Space>{.y = tensor.flatten()});
      },
      gradients);
}

/// The 2-norm over all tensors together, summed in double in `sum`, [1]. The result is read on the
/// host.
template <class B, class P>
  requires HasOptimizerUpdate<B> && HasRearrange<B>
double global_norm(Context<B>& ctx, const P& gradients,
                   std::type_identity_t<View<double, 1, typename B::Space>> sum) {
  fill(ctx, Fill<double, typename B::Space>{.y = sum});
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        sum_of_squares(ctx, SumOfSquares<typename P::Scalar, typename B::Space>{
                                .x = tensor.flatten(), .sum = sum});
      },
      gradients);
  double total = 0;
  B::Space::copy(&total, sum.data(), sizeof(total));
  return std::sqrt(total);
}

/// The same with memory of its own.
template <class B, class P>
double global_norm(Context<B>& ctx, const P& gradients) {
  DynamicTensor<double, 1, typename B::Space> sum(DynamicExtents<1>(1));
  return global_norm(ctx, gradients, sum);
}

}  // namespace ssm
