// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "ssm/layer/mamba2.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/model/mamba_language_model.hpp"  // MambaNames

namespace ssm {

/// The sizes of a Mamba-2 language model.
struct Mamba2LanguageModelConfig {
  Index d_model = 768;
  Index n_layer = 24;
  Index vocab_size = 256;
  Index pad_vocab_size_multiple = 1;
  Index d_inner = 1536;   // channels of all heads
  Index head_dim = 64;    // channels of a head
  Index n_groups = 1;     // of heads that share B and C
  Index d_state = 128;    // state of a channel
  Index d_conv = 4;       // width of the short convolution
  bool has_bias = false;  // of in_proj and out_proj
  bool has_conv_bias = true;
  bool has_tied_head = true;        // the head is the embedding
  double norm_epsilon = 1e-5;       // of the norms of blocks and of mixers
  double initializer_range = 0.02;  // standard deviation of the embedding at the start
  double embed_dropout = 0;         // training only
  double dt_limit_min = 0;          // every step is clamped to these
  double dt_limit_max = std::numeric_limits<double>::infinity();
  double dt_min = 1e-3;  // initial step sizes, log-uniform; the floor after
  double dt_max = 1e-1;
  double dt_floor = 1e-4;
  double A_min = 1;  // initial decay rates, uniform
  double A_max = 16;

  /// Rows of the embedding and the head.
  Index padded_vocabulary() const {
    return ssm::padded_vocabulary(vocab_size, pad_vocab_size_multiple);
  }
  /// What published models derive from the width.
  static constexpr Index default_d_inner(Index d_model) { return 2 * d_model; }
};

/// The mixer of a Mamba-2 language model, with all sizes at run time.
using Mamba2Mixer = Mamba2<Mamba2Config{
    .inner = dyn, .head_dim = dyn, .groups = dyn, .state = dyn, .conv_width = dyn, .bias = true}>;

/// A Mamba-2 language model with all sizes at run time: h ← h + mixer(rms(h)), a final norm, and a
/// head that may be the embedding. Its tensors have Mamba's names.
/// Source  Dao and Gu 2024 (Mamba-2); huggingface/transformers, Mamba2ForCausalLM
using Mamba2LanguageModel =
    BasicLanguageModel<Stack<Residual<RmsNorm<>, Mamba2Mixer>>, RmsNorm<>, MambaNames>;

/// Throws  ArgumentError  for sizes that do not fit together
inline Mamba2LanguageModel make_language_model(const Mamba2LanguageModelConfig& config) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw ArgumentError(std::string("Mamba-2 language model: ") + what);
  };
  require(config.n_layer >= 1, "n_layer must be at least 1");
  require(config.pad_vocab_size_multiple >= 1, "pad_vocab_size_multiple must be at least 1");
  const RmsNorm<> norm({.channels = config.d_model, .eps = config.norm_epsilon});
  const Mamba2Mixer mixer({.channels = config.d_model,
                           .inner = config.d_inner,
                           .head_dim = config.head_dim,
                           .groups = config.n_groups,
                           .state = config.d_state,
                           .conv_width = config.d_conv,
                           .conv_bias = config.has_conv_bias,
                           .bias = config.has_bias,
                           .eps = config.norm_epsilon,
                           .dt_limit_min = config.dt_limit_min,
                           .dt_limit_max = config.dt_limit_max,
                           .dt_min = config.dt_min,
                           .dt_max = config.dt_max,
                           .dt_floor = config.dt_floor,
                           .A_min = config.A_min,
                           .A_max = config.A_max});
  using Block = Residual<RmsNorm<>, Mamba2Mixer>;
  return Mamba2LanguageModel({.vocabulary = config.vocab_size,
                              .padded = config.padded_vocabulary(),
                              .has_tied_head = config.has_tied_head,
                              .embedding_dropout = config.embed_dropout,
                              .initializer_range = config.initializer_range},
                             Stack<Block>(std::vector<Block>(
                                 static_cast<std::size_t>(config.n_layer), Block(norm, mixer))),
                             norm);
}

}  // namespace ssm
