// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "ssm/model/blocks.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"
#include "ssm/model/embedded.hpp"
#include "ssm/model/gpt2_language_model.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/mamba2_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/post_norm.hpp"
#include "ssm/model/retnet_language_model.hpp"
#include "ssm/model/sequence_classifier.hpp"
#include "support/layer_case.hpp"

namespace ssm::laws {

/// Stacks of DenseSSM: each layer hands its hidden state to those above it.
inline auto dense_scans(Index sources, std::size_t layers, DenseFusion fusion) {
  using Layer = DenseMamba<DenseMambaConfig{
      .mamba = {.channels = 4, .inner = 5, .state = 3, .conv_width = 2, .dt_rank = 2},
      .select_hidden = 2}>;
  return DenseStack<RmsNorm<4>, Layer>({.sources = sources}, RmsNorm<4>(),
                                       std::vector<Layer>(layers, Layer({.fusion = fusion})));
}
inline auto dense_units(Index sources, std::size_t layers, DenseFusion fusion) {
  using Layer = GauRetention<GauRetentionConfig{}>;
  const Layer layer({.channels = 4,
                     .query_key_dim = 4,
                     .value_dim = 6,
                     .heads = 2,
                     .k_hidden = 2,
                     .v_hidden = 3,
                     .eps = 0.5,
                     .fusion = fusion});
  return DenseStack<RmsNorm<>, Layer>({.sources = sources}, RmsNorm<>({.channels = 4, .eps = 0.5}),
                                      std::vector<Layer>(layers, layer));
}

/// Every combinator of layers, which is a layer itself; as `every_layer`.
inline constexpr auto every_combinator = std::tuple(
    layer_case(
        {.name = "Residual", .header = "ssm/model/residual.hpp", .source = "He et al. 2016"},
        [] {
          return Residual<LayerNorm<3>, ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>>();
        }),
    layer_case(
        {.name = "PostNorm", .header = "ssm/model/post_norm.hpp", .source = "Vaswani et al. 2017"},
        [] {
          return PostNorm<LayerNorm<3>, ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>>();
        }),
    layer_case({.name = "Chain", .header = "ssm/model/chain.hpp", .source = ""},
               [] {
                 return Chain<ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>,
                              DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 2}>>();
               }),
    layer_case(
        {.name = "Sequential", .header = "ssm/model/sequential.hpp", .source = ""},
        [] {
          return Sequential<ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>, LayerNorm<3>,
                            DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 2}>>();
        }),
    layer_case({.name = "Stack", .header = "ssm/model/stack.hpp", .source = ""},
               [] {
                 using Block = ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>;
                 return Stack<Block>(std::vector<Block>(3));
               }),
    layer_case({.name = "OneOf",
                .sizes = "the first kind",
                .header = "ssm/model/one_of.hpp",
                .source = ""},
               [] {
                 using Shift = ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>;
                 return OneOf<Shift, LayerNorm<3>>(Shift());
               }),
    layer_case(
        {.name = "OneOf", .sizes = "another kind", .header = "ssm/model/one_of.hpp", .source = ""},
        [] {
          using Shift = ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>;
          return OneOf<Shift, LayerNorm<3>>(LayerNorm<3>());
        }),
    layer_case({.name = "DenseStack",
                .form = "DenseMamba",
                .header = "ssm/model/dense_stack.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] { return dense_scans(2, 3, DenseFusion::readout); }),
    layer_case({.name = "DenseStack",
                .form = "DenseMamba",
                .sizes = "carried",
                .header = "ssm/model/dense_stack.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] { return dense_scans(3, 4, DenseFusion::carried); }),
    layer_case({.name = "DenseStack",
                .form = "GauRetention",
                .header = "ssm/model/dense_stack.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] { return dense_units(2, 3, DenseFusion::carried); }));

/// Every language model: tokens in, logits out.
inline constexpr auto every_language_model = std::tuple(
    layer_case({.name = "LanguageModel",
                .form = "H3 and attention",
                .header = "ssm/model/blocks.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] { return LanguageModel<Vocabulary{5}, Width{4}, H3Block, AttentionBlock>(); }),
    layer_case({.name = "H3LanguageModel",
                .header = "ssm/model/h3_language_model.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] {
                 return make_language_model(H3LanguageModelConfig{.d_model = 4,
                                                                  .n_layer = 2,
                                                                  .d_inner = 6,
                                                                  .vocab_size = 5,
                                                                  .d_state = 4,
                                                                  .attn_layer_idx = {1}});
               }),
    layer_case({.name = "MambaLanguageModel",
                .header = "ssm/model/mamba_language_model.hpp",
                .source = "Gu and Dao 2023 (Mamba)"},
               [] {
                 return make_language_model(MambaLanguageModelConfig{.d_model = 4,
                                                                     .n_layer = 2,
                                                                     .vocab_size = 5,
                                                                     .d_inner = 6,
                                                                     .d_state = 3,
                                                                     .dt_rank = 2});
               }),
    layer_case({.name = "Mamba2LanguageModel",
                .header = "ssm/model/mamba2_language_model.hpp",
                .source = "Dao and Gu 2024 (Mamba-2)"},
               [] {
                 return make_language_model(Mamba2LanguageModelConfig{.d_model = 4,
                                                                      .n_layer = 2,
                                                                      .vocab_size = 5,
                                                                      .d_inner = 6,
                                                                      .head_dim = 3,
                                                                      .d_state = 3});
               }),
    layer_case({.name = "DenseMambaLanguageModel",
                .header = "ssm/model/mamba_language_model.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return make_dense_language_model(
                     MambaLanguageModelConfig{.d_model = 4,
                                              .n_layer = 3,
                                              .vocab_size = 5,
                                              .d_inner = 6,
                                              .d_state = 3,
                                              .dt_rank = 2,
                                              .dense_block_layers = 2,
                                              .h_select_reduction = 2});
               }),
    layer_case({.name = "DenseMambaLanguageModel",
                .sizes = "carried",
                .header = "ssm/model/mamba_language_model.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return make_dense_language_model(
                     MambaLanguageModelConfig{.d_model = 4,
                                              .n_layer = 3,
                                              .vocab_size = 5,
                                              .d_inner = 6,
                                              .d_state = 3,
                                              .dt_rank = 2,
                                              .dense_block_layers = 2,
                                              .h_select_reduction = 2,
                                              .fusion = DenseFusion::carried});
               }),
    layer_case({.name = "RetNetLanguageModel",
                .header = "ssm/model/retnet_language_model.hpp",
                .source = "Sun et al. 2023 (RetNet)"},
               [] {
                 return make_language_model(RetNetLanguageModelConfig{.d_model = 4,
                                                                      .n_layer = 2,
                                                                      .vocab_size = 5,
                                                                      .num_heads = 2,
                                                                      .d_value = 6,
                                                                      .d_inner = 6});
               }),
    layer_case({.name = "DenseRetNetLanguageModel",
                .header = "ssm/model/dense_retnet_language_model.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return make_language_model(DenseRetNetLanguageModelConfig{.d_model = 4,
                                                                           .n_layer = 3,
                                                                           .vocab_size = 5,
                                                                           .num_heads = 1,
                                                                           .d_key = 4,
                                                                           .d_value = 6,
                                                                           .dense_block_layers = 2,
                                                                           .k_select_reduction = 2,
                                                                           .v_select_reduction = 2,
                                                                           .dropout = 0});
               }),
    layer_case({.name = "Gpt2LanguageModel",
                .header = "ssm/model/gpt2_language_model.hpp",
                .source = "Radford et al. 2019 (GPT-2)"},
               [] {
                 return make_language_model(Gpt2LanguageModelConfig{.n_embd = 4,
                                                                    .n_layer = 2,
                                                                    .n_head = 2,
                                                                    .n_inner = 6,
                                                                    .n_positions = 1024,
                                                                    .vocab_size = 5});
               }));

/// What reads tokens and is no language model.
inline constexpr auto every_token_model =
    std::tuple(layer_case({.name = "Embedded", .header = "ssm/model/embedded.hpp", .source = ""},
                          [] {
                            using Filter = ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>;
                            return Embedded<Filter>(5, Filter());
                          }),
               layer_case({.name = "TokenClassifier",
                           .form = "S4D",
                           .header = "ssm/model/sequence_classifier.hpp",
                           .source = "Gu et al. 2022 (S4D)"},
                          [] {
                            return make_token_classifier({.vocabulary = 5,
                                                          .classes = 3,
                                                          .d_model = 4,
                                                          .n_layer = 2,
                                                          .d_state = 4,
                                                          .bidirectional = false,
                                                          .norm = NormPlace::after,
                                                          .dt_min = 0.05,
                                                          .dt_max = 0.5});
                          }),
               layer_case({.name = "TokenClassifier",
                           .form = "H3",
                           .header = "ssm/model/sequence_classifier.hpp",
                           .source = "Fu et al. 2023 (H3)"},
                          [] {
                            return make_token_classifier({.vocabulary = 5,
                                                          .classes = 3,
                                                          .d_model = 4,
                                                          .n_layer = 1,
                                                          .d_state = 4,
                                                          .mixer = ClassifierMixer::h3,
                                                          .bidirectional = false,
                                                          .pooling = Pooling::last,
                                                          .dt_min = 0.05,
                                                          .dt_max = 0.5});
                          }));

}  // namespace ssm::laws
