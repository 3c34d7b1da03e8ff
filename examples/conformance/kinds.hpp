// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kind.hpp"
#include "kind/adamw.hpp"
#include "kind/attention.hpp"
#include "kind/causal_convolution.hpp"
#include "kind/cross_entropy.hpp"
#include "kind/diagonal_ssm.hpp"
#include "kind/feed_forward.hpp"
#include "kind/h3.hpp"
#include "kind/h3_language_model.hpp"
#include "kind/normalization.hpp"
#include "kind/schedule.hpp"
#include "kind/shift_ssm.hpp"
#include "kind/training.hpp"

namespace ssm::conformance {

/// A new kind is one file in kind/ and one line here.
template <class B, class T>
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"adamw", check_adamw<B, T>},
      {"attention", check_attention<B, T>},
      {"causal_convolution", check_causal_convolution<B, T>},
      {"cross_entropy", check_cross_entropy<B, T>},
      {"diagonal_ssm", check_diagonal_ssm<B, T>},
      {"gelu_mlp", check_gelu_mlp<B, T>},
      {"h3", check_h3<B, T>},
      {"h3_lm", check_h3_language_model<B, T>},
      {"layer_norm", check_layer_norm<B, T>},
      {"rms_norm", check_rms_norm<B, T>},
      {"schedule", check_schedule},
      {"shift_ssm", check_shift_ssm<B, T>},
      {"swiglu_mlp", check_swiglu_mlp<B, T>},
      {"training", check_training<B, T>},
  };
  return all;
}

}  // namespace ssm::conformance
