// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "support/every_layer.hpp"
#include "support/every_model.hpp"

namespace ssm::laws {

/// Widths and options of layers beyond every_layer, which has each form once: for the laws alone.
inline constexpr auto every_layer_variant = std::tuple(
    layer_case({.name = "ShiftSsm",
                .sizes = "wider than any vector register",
                .header = "ssm/layer/shift_ssm.hpp",
                .source = ""},
               [] { return ShiftSsm<ShiftSsmConfig{.state = dyn}>({.channels = 37, .state = 7}); }),
    layer_case({.name = "ShiftSsm",
                .sizes = "a state of one",
                .header = "ssm/layer/shift_ssm.hpp",
                .source = ""},
               [] { return ShiftSsm<ShiftSsmConfig{.state = dyn}>({.channels = 2, .state = 1}); }),
    layer_case({.name = "H3",
                .sizes = "wide, two channels per head",
                .header = "ssm/layer/h3.hpp",
                .source = ""},
               [] {
                 return H3<H3Config{.state = dyn, .head_dim = dyn}>(
                     {.channels = 38, .state = 2, .head_dim = 2});
               }),
    layer_case(
        {.name = "H3", .sizes = "zero-order hold", .header = "ssm/layer/h3.hpp", .source = ""},
        [] {
          return H3<H3Config{.state = dyn, .head_dim = dyn}>(
              {.channels = 3,
               .state = 4,
               .head_dim = 1,
               .discretization = Discretization::zero_order_hold});
        }),
    layer_case({.name = "S4D",
                .sizes = "at run time, bilinear",
                .header = "ssm/layer/s4d.hpp",
                .source = ""},
               [] {
                 return S4D<S4DConfig{.state = dyn}>(
                     {.channels = 5, .state = 6, .discretization = Discretization::bilinear});
               }),
    layer_case({.name = "CausalAttention",
                .sizes = "wide, one head",
                .header = "ssm/layer/attention.hpp",
                .source = ""},
               [] {
                 return CausalAttention<CausalAttentionConfig{}>(
                     {.channels = 37, .heads = 1, .rotary_dim = 36});
               }),
    layer_case({.name = "Mamba", .sizes = "wide", .header = "ssm/layer/mamba.hpp", .source = ""},
               [] {
                 return Mamba<MambaConfig{.state = dyn, .conv_width = dyn}>(
                     {.channels = 19, .state = 2, .conv_width = 4, .dt_min = 0.05, .dt_max = 0.5});
               }),
    layer_case({.name = "Mamba2",
                .sizes = "wide, groups, steps clamped",
                .header = "ssm/layer/mamba2.hpp",
                .source = ""},
               [] {
                 return Mamba2<Mamba2Config{.head_dim = dyn, .groups = dyn, .state = dyn}>(
                     {.channels = 19,
                      .head_dim = 19,
                      .groups = 2,
                      .state = 17,
                      .eps = 0.5,
                      .dt_limit_min = 0.03,
                      .dt_limit_max = 0.8,
                      .dt_min = 0.05,
                      .dt_max = 0.5});
               }),
    layer_case({.name = "Mamba2",
                .sizes = "a group for each head of one channel",
                .header = "ssm/layer/mamba2.hpp",
                .source = ""},
               [] {
                 return Mamba2<Mamba2Config{.head_dim = dyn, .groups = dyn, .state = dyn}>(
                     {.channels = 2, .head_dim = 1, .groups = 4, .state = 1, .eps = 0.5});
               }),
    layer_case({.name = "Retention",
                .sizes = "GELU as its gate",
                .header = "ssm/layer/retention.hpp",
                .source = ""},
               [] {
                 return Retention<RetentionConfig{}>({.channels = 6,
                                                      .value_dim = 6,
                                                      .heads = 3,
                                                      .gate = ActivationKind::gelu_tanh,
                                                      .eps = 0.5});
               }),
    layer_case({.name = "GauRetention",
                .sizes = "heads and hidden units",
                .header = "ssm/layer/gau_retention.hpp",
                .source = ""},
               [] {
                 return GauRetention<GauRetentionConfig{.channels = 5,
                                                        .query_key_dim = 4,
                                                        .value_dim = 6,
                                                        .heads = 2,
                                                        .k_hidden = 1,
                                                        .v_hidden = 2}>(
                     {.eps = 0.5, .fusion = DenseFusion::readout});
               }),
    layer_case({.name = "SelectiveTransition",
                .sizes = "wide",
                .header = "ssm/layer/selective_transition.hpp",
                .source = ""},
               [] {
                 return SelectiveTransition<SelectiveTransitionConfig{}>(
                     {.channels = 5, .hidden = 2, .width = 19});
               }),
    layer_case({.name = "Linear", .sizes = "wide", .header = "ssm/layer/linear.hpp", .source = ""},
               [] { return Linear<LinearConfig{}>({.inputs = 37, .outputs = 19}); }),
    layer_case({.name = "Norm",
                .sizes = "without scale and offset",
                .header = "ssm/layer/norm.hpp",
                .source = ""},
               [] { return Norm<NormConfig{.weight = false, .bias = false}>({.channels = 3}); }),
    layer_case({.name = "LayerNorm", .sizes = "wide", .header = "ssm/layer/norm.hpp", .source = ""},
               [] { return LayerNorm<>({.channels = 37}); }),
    layer_case(
        {.name = "FeedForward",
         .form = "gated GELU",
         .header = "ssm/layer/feed_forward.hpp",
         .source = ""},
        [] { return FeedForward<FeedForwardConfig{.channels = 2, .hidden = 3, .gated = true}>(); }),
    layer_case({.name = "FeedForward",
                .form = "SwiGLU",
                .sizes = "wide",
                .header = "ssm/layer/feed_forward.hpp",
                .source = ""},
               [] {
                 return FeedForward<FeedForwardConfig{.gated = true, .bias = false}>(
                     {.channels = 5, .hidden = 18, .activation = ActivationKind::silu});
               }));

/// The same of what is made of layers.
inline constexpr auto every_model_variant = std::tuple(
    layer_case({.name = "DenseStack",
                .form = "DenseMamba",
                .sizes = "fused for reading",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_scans(2, 4, DenseFusion::readout); }),
    layer_case({.name = "DenseStack",
                .form = "DenseMamba",
                .sizes = "fusion carried on",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_scans(2, 3, DenseFusion::carried); }),
    layer_case({.name = "DenseStack",
                .form = "DenseMamba",
                .sizes = "without sources",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_scans(0, 2, DenseFusion::readout); }),
    layer_case({.name = "DenseStack",
                .form = "GauRetention",
                .sizes = "fusion carried on",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_units(2, 4, DenseFusion::carried); }),
    layer_case({.name = "DenseStack",
                .form = "GauRetention",
                .sizes = "fused for reading",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_units(2, 3, DenseFusion::readout); }),
    layer_case({.name = "DenseStack",
                .form = "GauRetention",
                .sizes = "one layer",
                .header = "ssm/model/dense_stack.hpp",
                .source = ""},
               [] { return dense_units(3, 1, DenseFusion::carried); }),
    layer_case({.name = "BasicLanguageModel",
                .sizes = "learned positions, a head of its own",
                .header = "ssm/model/language_model.hpp",
                .source = ""},
               [] {
                 using Block =
                     Residual<LayerNorm<4>, ShiftSsm<ShiftSsmConfig{.channels = 4, .state = 3}>>;
                 using Backbone = Stack<Block>;
                 return BasicLanguageModel<Backbone, LayerNorm<4>>({.vocabulary = 5,
                                                                    .padded = 8,
                                                                    .positions = 1024,
                                                                    .has_tied_head = false,
                                                                    .embedding_scale = 2},
                                                                   Backbone(std::vector<Block>(2)),
                                                                   LayerNorm<4>());
               }));

/// Layers as wide as in models, for the laws about blocking, threads and memory.
inline constexpr auto every_wide_layer = std::tuple(
    layer_case(
        {.name = "DiagonalSsm",
         .form = "scan",
         .header = "ssm/layer/diagonal_ssm.hpp",
         .source = ""},
        [] {
          return DiagonalSsm<DiagonalSsmConfig{.state = dyn}>(
              {.channels = 192, .state = 16, .discretization = Discretization::zero_order_hold});
        }),
    layer_case(
        {.name = "DiagonalSsm",
         .form = "convolution",
         .header = "ssm/layer/diagonal_ssm.hpp",
         .source = ""},
        [] {
          return DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::convolution}>(
              {.channels = 192, .state = 16});
        }),
    layer_case(
        {.name = "ShiftSsm", .form = "", .header = "ssm/layer/shift_ssm.hpp", .source = ""},
        [] { return ShiftSsm<ShiftSsmConfig{.state = dyn}>({.channels = 192, .state = 64}); }),
    layer_case(
        {.name = "H3", .form = "one channel per head", .header = "ssm/layer/h3.hpp", .source = ""},
        [] {
          return H3<H3Config{.state = dyn, .head_dim = dyn}>(
              {.channels = 192, .state = 16, .head_dim = 1});
        }),
    layer_case({.name = "H3",
                .form = "four channels per head",
                .header = "ssm/layer/h3.hpp",
                .source = ""},
               [] {
                 return H3<H3Config{.state = dyn, .head_dim = dyn}>(
                     {.channels = 64, .state = 8, .head_dim = 4});
               }),
    layer_case(
        {.name = "CausalAttention", .form = "", .header = "ssm/layer/attention.hpp", .source = ""},
        [] {
          return CausalAttention<CausalAttentionConfig{}>(
              {.channels = 192, .heads = 3, .rotary_dim = 64});
        }),
    layer_case({.name = "Mamba", .form = "", .header = "ssm/layer/mamba.hpp", .source = ""},
               [] {
                 return Mamba<MambaConfig{.state = dyn, .conv_width = dyn}>(
                     {.channels = 96, .state = 16, .conv_width = 4});
               }),
    layer_case({.name = "Mamba2", .form = "", .header = "ssm/layer/mamba2.hpp", .source = ""},
               [] {
                 return Mamba2<Mamba2Config{.groups = dyn, .state = dyn}>(
                     {.channels = 96, .groups = 3, .state = 64, .eps = 0.5});
               }),
    layer_case({.name = "Retention", .form = "", .header = "ssm/layer/retention.hpp", .source = ""},
               [] {
                 return Retention<RetentionConfig{}>(
                     {.channels = 192, .value_dim = 288, .heads = 3, .eps = 0.5});
               }),
    layer_case(
        {.name = "GauRetention", .form = "", .header = "ssm/layer/gau_retention.hpp", .source = ""},
        [] {
          return GauRetention<GauRetentionConfig{}>({.channels = 96,
                                                     .query_key_dim = 48,
                                                     .value_dim = 192,
                                                     .heads = 2,
                                                     .k_hidden = 3,
                                                     .v_hidden = 6,
                                                     .eps = 0.5});
        }),
    layer_case({.name = "Linear", .form = "", .header = "ssm/layer/linear.hpp", .source = ""},
               [] { return Linear<LinearConfig{}>({.inputs = 768, .outputs = 192}); }),
    layer_case({.name = "LayerNorm", .form = "", .header = "ssm/layer/norm.hpp", .source = ""},
               [] { return LayerNorm<>({.channels = 768}); }),
    layer_case({.name = "FeedForward",
                .form = "SwiGLU",
                .header = "ssm/layer/feed_forward.hpp",
                .source = ""},
               [] {
                 return FeedForward<FeedForwardConfig{.gated = true, .bias = false}>(
                     {.channels = 192, .hidden = 512, .activation = ActivationKind::silu});
               }));

}  // namespace ssm::laws
