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

/// A norm that a call begins with; null: none, as on backends without normalized_matmul.
template <class B, class T>
using FirstNorm = std::conditional_t<HasNormalizedMatmul<B, T>,
                                     const Normalization<T, typename B::Space>*, std::nullptr_t>;

}  // namespace ssm
