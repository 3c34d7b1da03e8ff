// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kind.hpp"
#include "kind/adamw.hpp"
#include "kind/attention.hpp"
#include "kind/causal_convolution.hpp"
#include "kind/cross_entropy.hpp"
#include "kind/dense_mamba.hpp"
#include "kind/diagonal_ssm.hpp"
#include "kind/feed_forward.hpp"
#include "kind/gau_retention.hpp"
#include "kind/h3.hpp"
#include "kind/hidden_fusion.hpp"
#include "kind/mamba.hpp"
#include "kind/normalization.hpp"
#include "kind/retention.hpp"
#include "kind/schedule.hpp"
#include "kind/selective_scan.hpp"
#include "kind/selective_transition.hpp"
#include "kind/shift_ssm.hpp"
#include "kind/short_convolution.hpp"

namespace ssm::conformance {

/// A new kind is one file in kind/ and one line here, or in language_models.hpp.
template <class B, class T>
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all{
      {"adamw", check_adamw<B, T>},
      {"attention", check_attention<B, T>},
      {"causal_convolution", check_causal_convolution<B, T>},
      {"cross_entropy", check_cross_entropy<B, T>},
      {"dense_mamba_block", check_dense_mamba<B, T>},
      {"diagonal_ssm", check_diagonal_ssm<B, T>},
      {"gau_retention", check_gau_retention<B, T>},
      {"gelu_mlp", check_gelu_mlp<B, T>},
      {"h3", check_h3<B, T>},
      {"hidden_fusion", check_hidden_fusion<B, T>},
      {"layer_norm", check_layer_norm<B, T>},
      {"mamba_block", check_mamba<B, T>},
      {"retention", check_retention<B, T>},
      {"rms_norm", check_rms_norm<B, T>},
      {"schedule", check_schedule},
      {"selective_scan", check_selective_scan<B, T>},
      {"selective_transition", check_selective_transition<B, T>},
      {"shift_ssm", check_shift_ssm<B, T>},
      {"short_convolution", check_short_convolution<B, T>},
      {"swiglu_mlp", check_swiglu_mlp<B, T>},
  };
  return all;
}

}  // namespace ssm::conformance
