// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm {

/// A layer whose last product adds its result to a residual stream, so that nobody else need:
///   layer.evaluate(ctx, parameters, x, y, tape, options, residual)     y = residual + layer(x)
/// It says so by
///   static constexpr bool adds_residual = true;
template <class L>
concept AddsResidual = requires {
  requires bool{L::adds_residual};
};

}  // namespace ssm
