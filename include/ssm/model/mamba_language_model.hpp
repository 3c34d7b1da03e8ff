// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/dense_stack.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"

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
  double initializer_range = 0.02;  // standard deviation of the embedding at the start
  double embed_dropout = 0;         // training only
  double dt_min = 1e-3;             // initial step sizes, log-uniform; the floor after
  double dt_max = 1e-1;
  double dt_floor = 1e-4;
  Index dense_block_layers = 0;  // earlier layers whose hidden states a layer reads; 0: plain Mamba
  Index h_select_reduction = 32;  // their gate goes through d_model / this many channels
  DenseFusion fusion = DenseFusion::readout;  // where they join its own

  /// Rows of the embedding and the head.
  Index padded_vocabulary() const {
    return ssm::padded_vocabulary(vocab_size, pad_vocab_size_multiple);
  }
  /// What published models derive from the width.
  static constexpr Index default_d_inner(Index d_model) { return 2 * d_model; }
  static constexpr Index default_dt_rank(Index d_model) { return (d_model + 15) / 16; }
};

/// Hugging Face's names of a Mamba language model's tensors.
struct MambaNames {
  static constexpr FixedString embedding = "backbone.embeddings.weight";
  static constexpr FixedString positions = "backbone.positions.weight";  // there are none
  static constexpr FixedString backbone = "backbone";
  static constexpr FixedString norm = "backbone.norm_f";
  static constexpr FixedString head = "lm_head.weight";
  using Initialization = MambaInitialization;
};

/// A Mamba block with all sizes at run time.
inline constexpr MambaConfig mamba_at_run_time{
    .inner = dyn, .state = dyn, .conv_width = dyn, .dt_rank = dyn, .bias = true};
/// The mixer of a Mamba language model, with all sizes at run time.
using MambaMixer = Mamba<mamba_at_run_time>;
/// The same, reading the hidden states of earlier mixers too.
using DenseMambaMixer =
    DenseMamba<DenseMambaConfig{.mamba = mamba_at_run_time, .select_hidden = dyn}>;

/// A Mamba language model with all sizes at run time: h ← h + mixer(rms(h)), a final norm, and a
/// head that may be the embedding.
/// Source  Gu and Dao 2023 (Mamba); huggingface/transformers, MambaForCausalLM
using MambaLanguageModel =
    BasicLanguageModel<Stack<Residual<RmsNorm<>, MambaMixer>>, RmsNorm<>, MambaNames>;

/// The same with every mixer reading the hidden states of the m mixers before it.
/// Source  He et al. 2024 (DenseSSM) §3; the published code has no DenseMamba, docs/60_models.md
///         says what is fixed here
using DenseMambaLanguageModel =
    BasicLanguageModel<DenseStack<RmsNorm<>, DenseMambaMixer>, RmsNorm<>, MambaNames>;

namespace detail {

inline void require_mamba(bool holds, const char* what) {
  if (!holds) throw ArgumentError(message({"Mamba language model: ", what}));
}

inline LanguageModelConfig language_model_config(const MambaLanguageModelConfig& config) {
  require_mamba(config.n_layer >= 1, "n_layer must be at least 1");
  require_mamba(config.pad_vocab_size_multiple >= 1, "pad_vocab_size_multiple must be at least 1");
  return {.vocabulary = config.vocab_size,
          .padded = config.padded_vocabulary(),
          .has_tied_head = config.has_tied_head,
          .embedding_dropout = config.embed_dropout,
          .initializer_range = config.initializer_range};
}

inline MambaOptions mixer_options(const MambaLanguageModelConfig& config) {
  return {.channels = config.d_model,
          .inner = config.d_inner,
          .state = config.d_state,
          .conv_width = config.d_conv,
          .dt_rank = config.dt_rank,
          .conv_bias = config.has_conv_bias,
          .bias = config.has_bias,
          .dt_min = config.dt_min,
          .dt_max = config.dt_max,
          .dt_floor = config.dt_floor};
}

}  // namespace detail

/// Throws  ArgumentError  for sizes that do not fit together, and for a dense configuration
inline MambaLanguageModel make_language_model(const MambaLanguageModelConfig& config) {
  detail::require_mamba(config.dense_block_layers == 0,
                        "dense_block_layers asks for a dense Mamba model");
  const RmsNorm<> norm({.channels = config.d_model, .eps = config.norm_epsilon});
  const LanguageModelConfig sizes = detail::language_model_config(config);
  using Block = Residual<RmsNorm<>, MambaMixer>;
  const Block block(norm, MambaMixer(detail::mixer_options(config)));
  return MambaLanguageModel(
      sizes, Stack<Block>(std::vector<Block>(static_cast<std::size_t>(config.n_layer), block)),
      norm);
}

/// Throws  ArgumentError  for sizes that do not fit together
inline DenseMambaLanguageModel make_dense_language_model(const MambaLanguageModelConfig& config) {
  detail::require_mamba(
      config.h_select_reduction >= 1 && config.h_select_reduction <= config.d_model,
      "h_select_reduction must be 1 to d_model");
  const RmsNorm<> norm({.channels = config.d_model, .eps = config.norm_epsilon});
  const LanguageModelConfig sizes = detail::language_model_config(config);
  const DenseMambaMixer mixer({.mamba = detail::mixer_options(config),
                               .select_hidden = config.d_model / config.h_select_reduction,
                               .fusion = config.fusion});
  return DenseMambaLanguageModel(
      sizes,
      DenseStack<RmsNorm<>, DenseMambaMixer>(
          {.sources = config.dense_block_layers}, norm,
          std::vector<DenseMambaMixer>(static_cast<std::size_t>(config.n_layer), mixer)),
      norm);
}

}  // namespace ssm
