// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/op/normalized_matmul.hpp"

namespace ssm {

/// A layer whose last product adds its result to a residual stream, so that nobody else need:
///   layer.evaluate(ctx, parameters, x, y, tape, options, residual)     y = residual + layer(x)
/// It says so by
///   static constexpr bool adds_residual = true;
template <class L>
concept AddsResidual = requires {
  requires bool{L::adds_residual};
};

/// Such a layer that also normalizes what it reads, so that its first product may do so on the way:
///   layer.evaluate(ctx, parameters, x, y, nullptr, options, residual, &norm)
/// x is what the norm writes, and not written yet: the norm's x is read. It says so by
///   static constexpr bool takes_norm = true;
template <class L>
concept TakesNorm = AddsResidual<L> && requires {
  requires bool{L::takes_norm};
};

/// Whether the gradient of a layer's last bias, Σ dy, is left to the caller.
enum class OutputBias { summed, left_out };
/// A layer that ends with a product, and may leave out the gradient of its bias, as a caller that
/// reads dy anyway sums it on the way:
///   layer.differentiate(ctx, parameters, tape, dy, dx, gradients, ends, OutputBias::left_out)
///   L::output_bias(gradients)     where that gradient belongs; empty without a bias
/// It says so by
///   static constexpr bool leaves_output_bias = true;
template <class L>
concept LeavesOutputBias = requires {
  requires bool{L::leaves_output_bias};
};
/// The bias of the gradients of such a layer's last product, as a view of any layer's.
template <class P>
View<typename P::Scalar, 1, typename P::Space> bias_of(P& gradients) {
  return gradients.bias.view();
}
/// The same where it is to be summed, else empty.
template <class P>
auto bias_unless_left_out(P& gradients, OutputBias mode) {
  return mode == OutputBias::summed ? bias_of(gradients) : decltype(bias_of(gradients)){};
}

/// A norm that a call begins with; null: none, as on backends without normalized_matmul.
template <class B, class T>
using FirstNorm = std::conditional_t<HasNormalizedMatmul<B, T>,
                                     const Normalization<T, typename B::Space>*, std::nullptr_t>;

}  // namespace ssm
