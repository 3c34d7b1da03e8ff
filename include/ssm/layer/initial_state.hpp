// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm {

/// The initial state of a layer, whose State need not grow: `reserve` is how many positions those
/// that do get room for. What combinators pass on, so that steps up to that position allocate
/// nothing.
template <class T, class B, class L>
auto initial_state_of(const L& layer, const Context<B>& ctx, Index sequences, Index reserve) {
  if constexpr (requires { layer.template initial_state<T>(ctx, sequences, reserve); })
    return layer.template initial_state<T>(ctx, sequences, reserve);
  else
    return layer.template initial_state<T>(ctx, sequences);
}

}  // namespace ssm
