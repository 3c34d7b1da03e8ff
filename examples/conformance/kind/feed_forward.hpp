// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/feed_forward.hpp"

namespace ssm::conformance {

template <class B, class T, FeedForwardConfig config>
void check_feed_forward(Trial& trial, ActivationKind activation) {
  check_layer<B, T>(trial, FeedForward<config>({.channels = trial.size("d"),
                                                .hidden = trial.size("hidden"),
                                                .activation = activation}));
}

template <class B, class T>
void check_gelu_mlp(Trial& trial) {
  check_feed_forward<B, T, FeedForwardConfig{}>(trial, ActivationKind::gelu_tanh);
}

template <class B, class T>
void check_swiglu_mlp(Trial& trial) {
  check_feed_forward<B, T, FeedForwardConfig{.gated = true, .bias = false}>(trial,
                                                                            ActivationKind::silu);
}

}  // namespace ssm::conformance
