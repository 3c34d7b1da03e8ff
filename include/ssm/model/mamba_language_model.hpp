// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/dense_stack.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/mamba_language_model_config.hpp"
#include "ssm/model/residual.hpp"
#include "ssm/model/stack.hpp"

namespace ssm {

/// Hugging Face's names of a Mamba language model's tensors.
struct MambaNames {
  static constexpr FixedString embedding = "backbone.embeddings.weight";
  static constexpr FixedString positions = "backbone.positions.weight";  // there are none
  static constexpr FixedString backbone = "backbone";
  static constexpr FixedString norm = "backbone.norm_f";
  static constexpr FixedString head = "lm_head.weight";
  using Initialization = MambaInitialization;
};

inline constexpr MambaConfig mamba_at_run_time{
    .inner = dyn, .state = dyn, .conv_width = dyn, .dt_rank = dyn, .bias = true};
using MambaMixer = Mamba<mamba_at_run_time>;
using DenseMambaMixer =
    DenseMamba<DenseMambaConfig{.mamba = mamba_at_run_time, .select_hidden = dyn}>;

/// A Mamba language model with all sizes at run time: h ← h + mixer(rms(h)), a final norm, and a head that may be the
/// embedding.
/// Source  Gu and Dao 2023 (Mamba); huggingface/transformers, MambaForCausalLM
using MambaLanguageModel =
    BasicLanguageModel<Stack<Residual<RmsNorm<>, MambaMixer>>, RmsNorm<>, MambaNames>;

/// The same with every mixer reading the hidden states of the m mixers before it.
/// Source  He et al. 2024 (DenseSSM) §3; the published code has no DenseMamba, docs/60_models.md says what is fixed here
using DenseMambaLanguageModel =
    BasicLanguageModel<DenseStack<RmsNorm<>, DenseMambaMixer>, RmsNorm<>, MambaNames>;

namespace detail {

inline void require_mamba(bool holds, const char* what) {
  if (!holds) throw ArgumentError(std::string("Mamba language model: ") + what);
}

inline LanguageModelConfig language_model_config(const MambaLanguageModelConfig& config) {
  require_mamba(config.n_layer >= 1, "n_layer must be at least 1");
  require_mamba(config.pad_vocab_size_multiple >= 1, "pad_vocab_size_multiple must be at least 1");
  const Index multiple = config.pad_vocab_size_multiple;
  return {.vocabulary = config.vocab_size,
          .padded = (config.vocab_size + multiple - 1) / multiple * multiple,
          .has_tied_head = config.has_tied_head};
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
