// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/error.hpp"  // Index
#include "ssm/layer/dense_fusion.hpp"

namespace ssm {

/// The sizes of a Mamba language model, or of a Dense Mamba one where dense_block_layers > 0.
struct MambaLanguageModelConfig {
  Index d_model = 768;
  Index n_layer = 24;
  Index vocab_size = 256;
  Index pad_vocab_size_multiple = 1;
  Index d_inner = 1536;   // channels of the scan
  Index d_state = 16;     // state of a channel
  Index d_conv = 4;       // width of the short convolution
  Index dt_rank = 48;     // rank of the step size's projection
  bool has_bias = false;  // of in_proj and out_proj
  bool has_conv_bias = true;
  bool has_tied_head = true;  // the head is the embedding
  double norm_epsilon = 1e-5;
  double dt_min = 1e-3;  // initial step sizes, log-uniform; the floor after
  double dt_max = 1e-1;
  double dt_floor = 1e-4;
  Index dense_block_layers = 0;  // earlier layers whose hidden states a layer reads; 0: plain Mamba
  Index h_select_reduction = 32;  // their gate goes through d_model / this many channels
  DenseFusion fusion = DenseFusion::readout;  // where they join its own

  /// What published models derive from the width.
  static constexpr Index usual_d_inner(Index d_model) { return 2 * d_model; }
  static constexpr Index usual_dt_rank(Index d_model) { return (d_model + 15) / 16; }
};

}  // namespace ssm
