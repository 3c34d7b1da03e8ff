// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kind.hpp"
#include "kind/h3_language_model.hpp"
#include "kind/mamba_language_model.hpp"
#include "kind/retnet_language_model.hpp"
#include "kind/training.hpp"

namespace ssm::conformance {

template <class B, class T>
const std::vector<Kind>& language_models() {
  static const std::vector<Kind> all = [] {
    std::vector<Kind> list{
        {"h3_lm", check_h3_language_model<B, T>},
        {"training", check_training<B, T>},
    };
    if constexpr (HasSelectiveScan<B> && HasShortConvolution<B>) {
      list.push_back({"dense_mamba_lm", check_dense_mamba_language_model<B, T>});
      list.push_back({"mamba_lm", check_mamba_language_model<B, T>});
    }
    if constexpr (HasDecayedAttention<B>) {
      list.push_back({"dense_retnet_lm", check_dense_retnet_language_model<B, T>});
      list.push_back({"retnet_lm", check_retnet_language_model<B, T>});
    }
    return list;
  }();
  return all;
}

}  // namespace ssm::conformance
