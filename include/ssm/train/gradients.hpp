// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/op/optimizer_update.hpp"
#include "ssm/op/rearrange.hpp"
#include "ssm/op/unwritten.hpp"

namespace ssm {

/// Sets every tensor of a parameter struct to zero: what each step's gradients start from.
/// without_products   those are left as they are that UnwrittenGradients names
template <HasRearrange B, class P>
void set_zero(Context<B>& ctx, P& gradients, bool without_products = false) {
  using One = Fill<typename P::Scalar, typename B::Space>;
  std::vector<One> fills;
  for_each_parameter(
      [&](const ParameterSpec& spec, auto& tensor) {
        if (!without_products || !spec.gradient_by_products)
          fills.push_back({.y = tensor.flatten()});
      },
      gradients);
  fill(ctx, std::span<const One>(fills));
}

/// Gradients of a pass that starts from zero. Those that a product writes first are not set to zero
/// but are the context's `unwritten` as long as this is there.
///   set_zero(ctx, gradients, true);
///   UnwrittenGradients pass(ctx, gradients);
///   layer.backward(…, gradients);
///   pass.finish();
template <HasRearrange B, class P>
class UnwrittenGradients {
 public:
  /// is_on: else it does nothing, as in a pass that adds to the one before
  UnwrittenGradients(Context<B>& ctx, P& gradients, bool is_on = true)
      : ctx_(ctx), before_(ctx.unwritten()) {
    if (!is_on) return;
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor) {
          if (spec.gradient_by_products)
            unwritten_.add(tensor.data(),
                           static_cast<std::size_t>(tensor.size()) * sizeof(typename P::Scalar));
        },
        gradients);
    ctx.set_unwritten(&unwritten_);
  }
  UnwrittenGradients(const UnwrittenGradients&) = delete;
  UnwrittenGradients& operator=(const UnwrittenGradients&) = delete;
  ~UnwrittenGradients() { ctx_.set_unwritten(before_); }

  /// Behind the pass: those that it has not written are zero.
  void finish() { unwritten_.settle(detail::zero_part<typename P::Scalar>(ctx_)); }

 private:
  Context<B>& ctx_;
  UnwrittenTensors unwritten_;
  UnwrittenTensors* before_;
};

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
