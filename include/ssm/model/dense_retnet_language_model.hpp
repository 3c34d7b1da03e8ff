// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/dense_stack.hpp"
#include "ssm/model/language_model.hpp"

namespace ssm {

/// The sizes of a DenseRetNet language model: gated attention units with retention, keys and values
/// densely connected.
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
  double dropout = 0.1;             // training only: of embeddings and of what blocks add

  Index k_select_channels() const {
    return k_select_hidden > 0 ? k_select_hidden : d_model / k_select_reduction;
  }
  Index v_select_channels() const {
    return v_select_hidden > 0 ? v_select_hidden : d_model / v_select_reduction;
  }
};

/// The names of DenseSSM's published DenseRetNet.
struct DenseRetNetNames {
  static constexpr FixedString embedding = "model.embed_tokens.weight";
  static constexpr FixedString positions = "model.embed_positions.weight";  // there are none
  static constexpr FixedString backbone = "model";
  static constexpr FixedString norm = "model.norm";
  static constexpr FixedString head = "lm_head.weight";
  using Initialization = NormalInitialization;
};

/// The mixer of a DenseRetNet, with all sizes at run time.
using DenseRetNetMixer = GauRetention<GauRetentionConfig{}>;

/// A DenseRetNet language model with all sizes at run time: gated attention units with retention,
/// whose keys and values take in those of the m units before.
/// Source  He et al. 2024 (DenseSSM) §3.4; WailordHe/DenseSSM, modeling_dense_gau_retnet
using DenseRetNetLanguageModel =
    BasicLanguageModel<DenseStack<RmsNorm<>, DenseRetNetMixer, "input_layernorm", "self_attn">,
                       RmsNorm<>, DenseRetNetNames>;

/// Throws  ArgumentError  for sizes that do not fit together
inline DenseRetNetLanguageModel make_language_model(const DenseRetNetLanguageModelConfig& config) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw ArgumentError(message({"DenseRetNet language model: ", what}));
  };
  require(config.n_layer >= 1, "n_layer must be at least 1");
  require(config.k_select_reduction >= 1 && config.v_select_reduction >= 1 &&
              config.k_select_channels() >= 1 && config.v_select_channels() >= 1,
          "the reductions of the gates must be 1 to d_model");
  const RmsNorm<> norm({.channels = config.d_model, .eps = config.norm_epsilon});
  const DenseRetNetMixer mixer({.channels = config.d_model,
                                .query_key_dim = config.d_key,
                                .value_dim = config.d_value,
                                .heads = config.num_heads,
                                .k_hidden = config.k_select_channels(),
                                .v_hidden = config.v_select_channels(),
                                .eps = config.norm_epsilon,
                                .fusion = config.fusion});
  return DenseRetNetLanguageModel(
      {.vocabulary = config.vocab_size,
       .has_tied_head = config.has_tied_head,
       .embedding_dropout = config.dropout,
       .initializer_range = config.initializer_range},
      DenseStack<RmsNorm<>, DenseRetNetMixer, "input_layernorm", "self_attn">(
          {.sources = config.dense_block_layers, .dropout = config.dropout}, norm,
          std::vector<DenseRetNetMixer>(static_cast<std::size_t>(config.n_layer), mixer)),
      norm);
}

}  // namespace ssm
