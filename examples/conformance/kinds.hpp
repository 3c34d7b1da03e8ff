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
#include "kind/mamba2.hpp"
#include "kind/normalization.hpp"
#include "kind/retention.hpp"
#include "kind/schedule.hpp"
#include "kind/selective_scan.hpp"
#include "kind/selective_transition.hpp"
#include "kind/shift_ssm.hpp"
#include "kind/short_convolution.hpp"
#include "kind/ssd_scan.hpp"

namespace ssm::conformance {

/// A new kind is one file in kind/ and one line here, or in language_models.hpp. What a backend has
/// no primitives for is left out, and so unsupported.
template <class B, class T>
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = [] {
    std::vector<Kind> list{
        {"adamw", check_adamw<B, T>},
        {"attention", check_attention<B, T>},
        {"causal_convolution", check_causal_convolution<B, T>},
        {"cross_entropy", check_cross_entropy<B, T>},
        {"diagonal_ssm", check_diagonal_ssm<B, T>},
        {"gelu_mlp", check_gelu_mlp<B, T>},
        {"h3", check_h3<B, T>},
        {"layer_norm", check_layer_norm<B, T>},
        {"rms_norm", check_rms_norm<B, T>},
        {"schedule", check_schedule},
        {"shift_ssm", check_shift_ssm<B, T>},
        {"swiglu_mlp", check_swiglu_mlp<B, T>},
    };
    if constexpr (HasSelectiveScan<B> && HasShortConvolution<B>) {
      list.push_back({"dense_mamba_block", check_dense_mamba<B, T>});
      list.push_back({"hidden_fusion", check_hidden_fusion<B, T>});
      list.push_back({"mamba_block", check_mamba<B, T>});
      list.push_back({"selective_scan", check_selective_scan<B, T>});
      list.push_back({"selective_transition", check_selective_transition<B, T>});
      list.push_back({"short_convolution", check_short_convolution<B, T>});
    }
    if constexpr (HasSsdScan<B>) list.push_back({"ssd_scan", check_ssd_scan<B, T>});
    if constexpr (HasSsdScan<B> && HasShortConvolution<B>)
      list.push_back({"mamba2_block", check_mamba2<B, T>});
    if constexpr (HasDecayedAttention<B>) {
      list.push_back({"gau_retention", check_gau_retention<B, T>});
      list.push_back({"retention", check_retention<B, T>});
    }
    return list;
  }();
  return all;
}

}  // namespace ssm::conformance
