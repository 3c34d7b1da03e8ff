// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/error.hpp"     // Index
#include "ssm/op/activation.hpp"  // ActivationKind

namespace ssm {

/// The sizes of a RetNet language model.
struct RetNetLanguageModelConfig {
  Index d_model = 512;
  Index n_layer = 6;
  Index vocab_size = 256;
  Index num_heads = 2;
  Index d_value = 864;  // of all heads together; queries and keys have d_model
  Index d_inner = 864;  // of the gated feed-forward layers
  ActivationKind activation = ActivationKind::silu;  // of those
  bool scales_embedding = false;                     // by √d_model
  bool has_tied_head = false;                        // the head is the embedding
  double norm_epsilon = 1e-6;
  double dropout = 0;             // training only: of what blocks add,
  double activation_dropout = 0;  // and of what the feed-forward layers' second projection reads
  Index chunk = 512;              // of the chunkwise form
};

}  // namespace ssm
