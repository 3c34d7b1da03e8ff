// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/error.hpp"  // Index
#include "ssm/layer/dense_fusion.hpp"

namespace ssm {

/// The sizes of a DenseRetNet language model: gated attention units with retention, keys and values densely connected.
struct DenseRetNetLanguageModelConfig {
  Index d_model = 1536;
  Index n_layer = 16;
  Index vocab_size = 256;
  Index num_heads = 2;
  Index d_key = 768;              // of all heads together
  Index d_value = 3072;           // of all heads together
  Index dense_block_layers = 2;   // earlier layers whose keys and values a layer reads
  Index k_select_reduction = 32;  // their gates go through d_model / this many channels,
  Index v_select_reduction = 32;
  Index k_select_hidden = 0;  // or through so many, where it is not 0
  Index v_select_hidden = 0;
  DenseFusion fusion = DenseFusion::carried;  // where they join its own
  bool has_tied_head = false;                 // the head is the embedding
  double norm_epsilon = 1e-6;
  double initializer_range = 0.02;  // standard deviation of weights at the start
  double dropout = 0.1;             // training only: of what blocks add

  Index k_select_channels() const {
    return k_select_hidden > 0 ? k_select_hidden : d_model / k_select_reduction;
  }
  Index v_select_channels() const {
    return v_select_hidden > 0 ? v_select_hidden : d_model / v_select_reduction;
  }
};

}  // namespace ssm
