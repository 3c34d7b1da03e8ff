// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"
#include "ssm/layer/feed_forward.hpp"

namespace ssm::conformance {

template <class B, class T, FeedForwardConfig config>
void check_feed_forward(Trial& trial) {
  check_layer<B, T>(
      trial, FeedForward<config>({.channels = trial.size("d"), .hidden = trial.size("hidden")}));
}

template <class B, class T>
void check_gelu_mlp(Trial& trial) {
  check_feed_forward<B, T, FeedForwardConfig{.activation = ActivationKind::gelu_tanh}>(trial);
}

template <class B, class T>
void check_swiglu_mlp(Trial& trial) {
  check_feed_forward<
      B, T, FeedForwardConfig{.activation = ActivationKind::silu, .gated = true, .bias = false}>(
      trial);
}

}  // namespace ssm::conformance
