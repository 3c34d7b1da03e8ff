// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

#include "ssm/layer/attention.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/one_of.hpp"
#include "ssm/model/pre_norm_block.hpp"
#include "ssm/model/stack.hpp"

namespace ssm {

/// The sizes of an H3 language model, under the names of its checkpoints' config.json.
struct H3LanguageModelConfig {
  Index d_model = 128;
  Index n_layer = 4;
  Index d_inner = 512;  // width of the feed-forward layers
  Index vocab_size = 256;
  Index pad_vocab_size_multiple = 1;
  Index d_state = 64;
  Index head_dim = 1;
  Index max_position_embeddings = 0;
  std::vector<Index> attn_layer_idx = {};  // which blocks have attention in place of H3
  Index num_heads = 1;
  Index rotary_emb_dim = 0;
  double layer_norm_epsilon = 1e-5;
  double embed_dropout = 0;  // training only: of embeddings,
  double resid_dropout = 0;  // and of what blocks add
  Discretization discretization = Discretization::bilinear;
  // Of the weights at the start:
  DiagonalMeasure measure = DiagonalMeasure::lin;
  double dt_min = 0.001;  // seconds
  double dt_max = 0.1;
  double initializer_range = 0.02;  // standard deviation of linear weights and embeddings

  /// Rows of the embedding.
  Index padded_vocabulary() const {
    return ssm::padded_vocabulary(vocab_size, pad_vocab_size_multiple);
  }
};

/// The H3 mixer of an H3 language model, with all sizes at run time.
using H3Mixer1d = H3<H3Config{.state = dyn, .head_dim = dyn}>;
/// A pre-norm block whose mixer is H3 or causal attention, chosen at run time.
using H3HybridBlock =
    PreNormBlock<LayerNorm<>, OneOf<H3Mixer1d, CausalAttention<CausalAttentionConfig{}>>,
                 FeedForward<FeedForwardConfig{}>>;

/// An H3 language model with all sizes at run time: H3 blocks, some replaced by attention.
/// Source  Fu et al. 2023 (H3) §4; HazyResearch/H3, SSMLMHeadModel
using H3LanguageModel = BasicLanguageModel<Stack<H3HybridBlock>, LayerNorm<>>;

/// Throws  ArgumentError  for sizes that do not fit together
inline H3LanguageModel make_language_model(const H3LanguageModelConfig& config) {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw ArgumentError(message({"H3 language model: ", what}));
  };
  require(config.n_layer >= 1, "n_layer must be at least 1");
  require(config.pad_vocab_size_multiple >= 1, "pad_vocab_size_multiple must be at least 1");
  for (const Index i : config.attn_layer_idx)
    require(i >= 0 && i < config.n_layer,
            "attn_layer_idx " + std::to_string(i) + " is not one of the layers");
  using Mixer = OneOf<H3Mixer1d, CausalAttention<CausalAttentionConfig{}>>;
  const LayerNorm<> norm({.channels = config.d_model, .eps = config.layer_norm_epsilon});
  const FeedForward<FeedForwardConfig{}> mlp(
      {.channels = config.d_model, .hidden = config.d_inner});
  std::vector<H3HybridBlock> blocks;
  for (Index i = 0; i < config.n_layer; ++i) {
    const bool attends = std::find(config.attn_layer_idx.begin(), config.attn_layer_idx.end(), i) !=
                         config.attn_layer_idx.end();
    const auto mixer = [&]() -> Mixer {
      if (attends)
        return CausalAttention<CausalAttentionConfig{}>({.channels = config.d_model,
                                                         .heads = config.num_heads,
                                                         .rotary_dim = config.rotary_emb_dim});
      return H3Mixer1d({.channels = config.d_model,
                        .state = config.d_state,
                        .head_dim = config.head_dim,
                        .discretization = config.discretization,
                        .measure = config.measure,
                        .dt_min = config.dt_min,
                        .dt_max = config.dt_max});
    };
    blocks.emplace_back(
        Residual<LayerNorm<>, Mixer, "norm1", "mixer">(norm, mixer(), config.resid_dropout),
        Residual<LayerNorm<>, FeedForward<FeedForwardConfig{}>, "norm2", "mlp">(
            norm, mlp, config.resid_dropout));
  }
  return H3LanguageModel({.vocabulary = config.vocab_size,
                          .padded = config.padded_vocabulary(),
                          .positions = config.max_position_embeddings,
                          .embedding_dropout = config.embed_dropout,
                          .initializer_range = config.initializer_range},
                         Stack<H3HybridBlock>(std::move(blocks)), norm);
}

}  // namespace ssm
