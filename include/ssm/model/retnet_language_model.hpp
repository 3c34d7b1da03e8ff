// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"

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
  double embed_dropout = 0;       // training only: of embeddings,
  double dropout = 0;             // of what blocks add,
  double activation_dropout = 0;  // and of what the feed-forward layers' second projection reads
};

/// The names of torchscale's RetNet decoder.
struct RetNetNames {
  static constexpr FixedString embedding = "embed_tokens.weight";
  static constexpr FixedString positions = "embed_positions.weight";  // there are none
  static constexpr FixedString backbone = "";
  static constexpr FixedString norm = "layer_norm";
  static constexpr FixedString head = "output_projection.weight";
  using Initialization = RetNetInitialization;
};

/// The mixer of a RetNet, with all sizes at run time.
using RetNetMixer = Retention<RetentionConfig{}>;
/// The gated feed-forward layer of a RetNet, without biases, with all sizes at run time.
using RetNetFeedForward = FeedForward<FeedForwardConfig{.gated = true, .bias = false}>;
/// Retention and then the feed-forward layer, each behind an RmsNorm and with a residual.
using RetNetDecoderBlock =
    Chain<Residual<RmsNorm<>, RetNetMixer, "retention_layer_norm", "retention">,
          Residual<RmsNorm<>, RetNetFeedForward, "final_layer_norm", "ffn">>;

/// A RetNet language model with all sizes at run time.
///   h ← h + retention(rms(h))      h ← h + ffn(rms(h))
/// Source  Sun et al. 2023 (RetNet); microsoft/torchscale, RetNetDecoder
using RetNetLanguageModel = BasicLanguageModel<Stack<RetNetDecoderBlock>, RmsNorm<>, RetNetNames>;

/// Throws  ArgumentError  for sizes that do not fit together
inline RetNetLanguageModel make_language_model(const RetNetLanguageModelConfig& config) {
  if (config.n_layer < 1) throw ArgumentError("RetNet language model: n_layer must be at least 1");
  const RmsNorm<> norm({.channels = config.d_model, .eps = config.norm_epsilon});
  const RetNetDecoderBlock block({norm,
                                  RetNetMixer({.channels = config.d_model,
                                               .value_dim = config.d_value,
                                               .heads = config.num_heads,
                                               .eps = config.norm_epsilon}),
                                  config.dropout},
                                 {norm,
                                  RetNetFeedForward({.channels = config.d_model,
                                                     .hidden = config.d_inner,
                                                     .activation = config.activation,
                                                     .dropout = config.activation_dropout}),
                                  config.dropout});
  return RetNetLanguageModel(
      {.vocabulary = config.vocab_size,
       .has_tied_head = config.has_tied_head,
       .embedding_scale =
           config.scales_embedding ? std::sqrt(static_cast<double>(config.d_model)) : 1,
       .embedding_dropout = config.embed_dropout},
      Stack<RetNetDecoderBlock>(
          std::vector<RetNetDecoderBlock>(static_cast<std::size_t>(config.n_layer), block)),
      norm);
}

}  // namespace ssm
