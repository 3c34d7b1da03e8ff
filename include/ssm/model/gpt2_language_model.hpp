// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "ssm/layer/attention.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/chain.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"

namespace ssm {

/// The sizes of a GPT-2 language model, under the names of its checkpoints' config.json.
struct Gpt2LanguageModelConfig {
  Index n_embd = 768;  // channels of the residual stream
  Index n_layer = 12;
  Index n_head = 12;
  Index n_inner = 3072;      // width of the feed-forward layers
  Index n_positions = 1024;  // learned ones, which no text can be longer than
  Index vocab_size = 50257;
  Index pad_vocab_size_multiple = 1;
  ActivationKind activation = ActivationKind::gelu_tanh;
  bool has_tied_head = true;                     // the head is the embedding
  bool scale_attn_weights = true;                // scores by 1/√(channels of a head)
  bool scale_attn_by_inverse_layer_idx = false;  // and by 1/(1 + block)
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;  // standard deviation of the weights at the start
  double embd_pdrop = 0;            // dropout, training only: of embeddings,
  double resid_pdrop = 0;           // of what attention and feed-forward layers add,
  double attn_pdrop = 0;            // and of attention weights, with which nothing trains

  /// Rows of the embedding and the head.
  Index padded_vocabulary() const {
    return ssm::padded_vocabulary(vocab_size, pad_vocab_size_multiple);
  }
};

/// Hugging Face's names of a GPT-2 language model's tensors.
struct Gpt2Names {
  static constexpr FixedString embedding = "transformer.wte.weight";
  static constexpr FixedString positions = "transformer.wpe.weight";
  static constexpr FixedString backbone = "transformer";
  static constexpr FixedString norm = "transformer.ln_f";
  static constexpr FixedString head = "lm_head.weight";
  using Initialization = Gpt2Initialization;
};

/// The attention and the feed-forward layer of a GPT-2 language model, with all sizes at run time.
using Gpt2Attention = CausalAttention<CausalAttentionConfig{.gpt2 = true}>;
using Gpt2FeedForward = FeedForward<FeedForwardConfig{.gpt2 = true}>;
/// x ← x + attention(layer norm(x)), then x ← x + feed-forward(layer norm(x)).
using Gpt2Block = Chain<Residual<LayerNorm<>, Gpt2Attention, "ln_1", "attn">,
                        Residual<LayerNorm<>, Gpt2FeedForward, "ln_2", "mlp">>;

/// A GPT-2 language model with all sizes at run time: a Transformer with learned positions.
/// Source  Radford et al. 2019 (GPT-2) §2.3; huggingface/transformers, GPT2LMHeadModel
using Gpt2LanguageModel = BasicLanguageModel<Stack<Gpt2Block, "h">, LayerNorm<>, Gpt2Names>;

/// Throws  ArgumentError  for sizes that do not fit together
inline Gpt2LanguageModel make_language_model(const Gpt2LanguageModelConfig& config) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw ArgumentError(message({"GPT-2 language model: ", what}));
  };
  require(config.n_layer >= 1, "n_layer must be at least 1");
  require(config.n_head >= 1, "n_head must be at least 1");
  require(config.n_positions >= 1, "n_positions must be at least 1");
  require(config.pad_vocab_size_multiple >= 1, "pad_vocab_size_multiple must be at least 1");
  const LayerNorm<> norm({.channels = config.n_embd, .eps = config.layer_norm_epsilon});
  const double width = static_cast<double>(config.n_embd) / static_cast<double>(config.n_head);
  std::vector<Gpt2Block> blocks;
  for (Index i = 0; i < config.n_layer; ++i) {
    double scale = config.scale_attn_weights ? 1 / std::sqrt(width) : 1;
    if (config.scale_attn_by_inverse_layer_idx) scale /= static_cast<double>(i + 1);
    blocks.emplace_back(Residual<LayerNorm<>, Gpt2Attention, "ln_1", "attn">(
                            norm,
                            Gpt2Attention({.channels = config.n_embd,
                                           .heads = config.n_head,
                                           .scale = scale,
                                           .dropout = config.attn_pdrop}),
                            config.resid_pdrop),
                        Residual<LayerNorm<>, Gpt2FeedForward, "ln_2", "mlp">(
                            norm,
                            Gpt2FeedForward({.channels = config.n_embd,
                                             .hidden = config.n_inner,
                                             .activation = config.activation}),
                            config.resid_pdrop));
  }
  return Gpt2LanguageModel({.vocabulary = config.vocab_size,
                            .padded = config.padded_vocabulary(),
                            .positions = config.n_positions,
                            .has_tied_head = config.has_tied_head,
                            .embedding_dropout = config.embd_pdrop,
                            .initializer_range = config.initializer_range},
                           Stack<Gpt2Block, "h">(std::move(blocks)), norm);
}

}  // namespace ssm
