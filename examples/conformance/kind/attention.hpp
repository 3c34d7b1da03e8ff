// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/attention.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_attention(Trial& trial) {
  using Layer = CausalAttention<CausalAttentionConfig{}>;
  check_layer<B, T>(trial,
                    Layer({.channels = trial.size("d"),
                           .heads = trial.size("heads"),
                           .rotary_dim = trial.size("rotary_dim", 0),
                           .rotary_base = trial.number("rotary_base", 10000)}),
                    StateLayout::time_first);
}

}  // namespace ssm::conformance
