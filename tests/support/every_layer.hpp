// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/attention.hpp"
#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/gated_state_space.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/glu_readout.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/mamba2.hpp"
#include "ssm/layer/mean_pool.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/layer/selective_transition.hpp"
#include "ssm/layer/shift_ssm.hpp"
#include "support/layer_case.hpp"

namespace ssm::laws {

/// Every layer, in each of its forms, small enough for every law. The laws on all backends, the
/// support matrix and the test of RunsOn are made from this list: a new layer is a new entry here.
inline constexpr auto every_layer = std::tuple(
    layer_case({.name = "DiagonalSsm",
                .form = "scan",
                .sizes = "in the type",
                .header = "ssm/layer/diagonal_ssm.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] {
                 return DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 4}>(
                     {.dt_min = 0.05, .dt_max = 0.5});
               }),
    layer_case(
        {.name = "DiagonalSsm",
         .form = "scan",
         .sizes = "at run time, zero-order hold",
         .header = "ssm/layer/diagonal_ssm.hpp",
         .source = "Gu et al. 2022 (S4D)"},
        [] {
          return DiagonalSsm<DiagonalSsmConfig{.state = dyn}>(
              {.channels = 37, .state = 6, .discretization = Discretization::zero_order_hold});
        }),
    layer_case({.name = "DiagonalSsm",
                .form = "scan",
                .sizes = "real modes",
                .header = "ssm/layer/diagonal_ssm.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] {
                 return DiagonalSsm<DiagonalSsmConfig{.channels = 2, .state = 3, .complex = false}>(
                     {.discretization = Discretization::zero_order_hold});
               }),
    layer_case(
        {.name = "DiagonalSsm",
         .form = "convolution",
         .sizes = "at run time",
         .header = "ssm/layer/diagonal_ssm.hpp",
         .source = "Gu et al. 2022 (S4D)"},
        [] {
          return DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::convolution}>(
              {.channels = 5, .state = 4});
        }),
    layer_case(
        {.name = "DiagonalSsm",
         .form = "convolution",
         .sizes = "real modes",
         .header = "ssm/layer/diagonal_ssm.hpp",
         .source = "Gu et al. 2022 (S4D)"},
        [] {
          return DiagonalSsm<DiagonalSsmConfig{
              .channels = 2, .state = 2, .complex = false, .form = DiagonalForm::convolution}>();
        }),
    layer_case({.name = "DiagonalSsm",
                .form = "scan",
                .sizes = "two A and B for four channels",
                .header = "ssm/layer/diagonal_ssm.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] {
                 return DiagonalSsm<DiagonalSsmConfig{.channels = 4, .state = 4, .shared = true}>(
                     {.dt_min = 0.05, .dt_max = 0.5, .n_ssm = 2});
               }),
    layer_case({.name = "DiagonalSsm",
                .form = "convolution",
                .sizes = "one A and B",
                .header = "ssm/layer/diagonal_ssm.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] {
                 return DiagonalSsm<DiagonalSsmConfig{
                     .state = dyn, .form = DiagonalForm::convolution, .shared = true}>(
                     {.channels = 3, .state = 4});
               }),
    layer_case({.name = "DiagonalSsm",
                .form = "automatic",
                .header = "ssm/layer/diagonal_ssm.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] {
                 return DiagonalSsm<DiagonalSsmConfig{
                     .channels = 3, .state = 4, .form = DiagonalForm::automatic}>();
               }),
    layer_case({.name = "ShiftSsm",
                .sizes = "in the type",
                .header = "ssm/layer/shift_ssm.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] { return ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>(); }),
    layer_case({.name = "ShiftSsm",
                .sizes = "at run time",
                .header = "ssm/layer/shift_ssm.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] { return ShiftSsm<ShiftSsmConfig{.state = dyn}>({.channels = 9, .state = 5}); }),
    layer_case({.name = "H3",
                .sizes = "in the type",
                .header = "ssm/layer/h3.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] {
                 return H3<H3Config{.channels = 4, .state = 4, .head_dim = 2}>(
                     {.dt_min = 0.05, .dt_max = 0.5});
               }),
    layer_case({.name = "H3",
                .sizes = "one channel per head",
                .header = "ssm/layer/h3.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] {
                 return H3<H3Config{.state = dyn, .head_dim = dyn}>(
                     {.channels = 5, .state = 4, .head_dim = 1});
               }),
    layer_case({.name = "H3",
                .sizes = "four channels per head",
                .header = "ssm/layer/h3.hpp",
                .source = "Fu et al. 2023 (H3)"},
               [] {
                 return H3<H3Config{.state = dyn, .head_dim = dyn}>(
                     {.channels = 8, .state = 6, .head_dim = 4});
               }),
    layer_case({.name = "S4D", .header = "ssm/layer/s4d.hpp", .source = "Gu et al. 2022 (S4D)"},
               [] { return S4D<S4DConfig{.channels = 3, .state = 4}>(); }),
    layer_case({.name = "GluReadout",
                .header = "ssm/layer/glu_readout.hpp",
                .source = "Gu et al. 2022 (S4D)"},
               [] { return GluReadout<GluReadoutConfig{}>({.channels = 3}); }),
    layer_case({.name = "CausalAttention",
                .header = "ssm/layer/attention.hpp",
                .source = "Vaswani et al. 2017"},
               [] { return CausalAttention<CausalAttentionConfig{.channels = 4, .heads = 2}>(); }),
    layer_case({.name = "CausalAttention",
                .sizes = "rotary",
                .header = "ssm/layer/attention.hpp",
                .source = "Su et al. 2021 (RoFormer)"},
               [] {
                 return CausalAttention<CausalAttentionConfig{}>(
                     {.channels = 8, .heads = 2, .rotary_dim = 2});
               }),
    layer_case({.name = "GatedStateSpace",
                .sizes = "in the type",
                .header = "ssm/layer/gated_state_space.hpp",
                .source = "Mehta et al. 2022 (GSS)"},
               [] {
                 return GatedStateSpace<GatedStateSpaceConfig{
                     .channels = 3, .gate_channels = 5, .state_channels = 2, .state = 4}>();
               }),
    layer_case({.name = "GatedStateSpace",
                .sizes = "at run time",
                .header = "ssm/layer/gated_state_space.hpp",
                .source = "Mehta et al. 2022 (GSS)"},
               [] {
                 return GatedStateSpace<GatedStateSpaceConfig{.state = dyn}>(
                     {.channels = 4, .gate_channels = 6, .state_channels = 3, .state = 6});
               }),
    layer_case({.name = "Mamba",
                .sizes = "in the type",
                .header = "ssm/layer/mamba.hpp",
                .source = "Gu and Dao 2023 (Mamba)"},
               [] {
                 return Mamba<MambaConfig{.channels = 3, .state = 4, .dt_rank = 2, .bias = true}>(
                     {.dt_min = 0.05, .dt_max = 0.5});
               }),
    layer_case({.name = "Mamba",
                .sizes = "at run time, without biases",
                .header = "ssm/layer/mamba.hpp",
                .source = "Gu and Dao 2023 (Mamba)"},
               [] {
                 return Mamba<MambaConfig{
                     .inner = dyn, .state = dyn, .conv_width = dyn, .conv_bias = false}>(
                     {.channels = 5, .inner = 4, .state = 3, .conv_width = 2});
               }),
    layer_case(
        {.name = "Mamba2",
         .sizes = "in the type",
         .header = "ssm/layer/mamba2.hpp",
         .source = "Dao and Gu 2024 (Mamba-2)"},
        [] {
          return Mamba2<Mamba2Config{.channels = 3, .head_dim = 2, .state = 4, .bias = true}>(
              {.eps = 0.5, .dt_min = 0.05, .dt_max = 0.5, .A_max = 4});
        }),
    layer_case({.name = "Mamba2",
                .sizes = "at run time, groups, without biases",
                .header = "ssm/layer/mamba2.hpp",
                .source = "Dao and Gu 2024 (Mamba-2)"},
               [] {
                 return Mamba2<Mamba2Config{.inner = dyn,
                                            .head_dim = dyn,
                                            .groups = dyn,
                                            .state = dyn,
                                            .conv_width = dyn,
                                            .conv_bias = false}>({.channels = 5,
                                                                  .inner = 12,
                                                                  .head_dim = 3,
                                                                  .groups = 2,
                                                                  .state = 3,
                                                                  .conv_width = 2,
                                                                  .eps = 0.5});
               }),
    layer_case({.name = "DenseMamba",
                .form = "readout",
                .header = "ssm/layer/dense_mamba.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return DenseMamba<DenseMambaConfig{
                     .mamba = {.channels = 3, .state = 4, .dt_rank = 2}, .select_hidden = 2}>(
                     {.mamba = {.dt_min = 0.05, .dt_max = 0.5}});
               }),
    layer_case({.name = "DenseMamba",
                .form = "carried",
                .header = "ssm/layer/dense_mamba.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return DenseMamba<DenseMambaConfig{
                     .mamba = {.channels = 3, .state = 4, .dt_rank = 2}, .select_hidden = 2}>(
                     {.mamba = {.dt_min = 0.05, .dt_max = 0.5}, .fusion = DenseFusion::carried});
               }),
    layer_case({.name = "Retention",
                .sizes = "in the type",
                .header = "ssm/layer/retention.hpp",
                .source = "Sun et al. 2023 (RetNet)"},
               [] {
                 return Retention<RetentionConfig{.channels = 4, .value_dim = 6, .heads = 2}>(
                     {.eps = 0.5});
               }),
    layer_case({.name = "Retention",
                .sizes = "at run time, a weight behind the head norm",
                .header = "ssm/layer/retention.hpp",
                .source = "Sun et al. 2023 (RetNet)"},
               [] {
                 return Retention<RetentionConfig{.head_weight = true}>(
                     {.channels = 4, .value_dim = 20, .heads = 1, .eps = 0.5});
               }),
    layer_case({.name = "GauRetention",
                .form = "carried",
                .header = "ssm/layer/gau_retention.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return GauRetention<GauRetentionConfig{.channels = 5,
                                                        .query_key_dim = 4,
                                                        .value_dim = 6,
                                                        .heads = 2,
                                                        .k_hidden = 1,
                                                        .v_hidden = 2}>({.eps = 0.5});
               }),
    layer_case({.name = "GauRetention",
                .form = "readout",
                .header = "ssm/layer/gau_retention.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return GauRetention<GauRetentionConfig{}>({.channels = 3,
                                                            .query_key_dim = 2,
                                                            .value_dim = 18,
                                                            .heads = 1,
                                                            .k_hidden = 2,
                                                            .v_hidden = 1,
                                                            .eps = 0.5,
                                                            .fusion = DenseFusion::readout});
               }),
    layer_case({.name = "SelectiveTransition",
                .header = "ssm/layer/selective_transition.hpp",
                .source = "He et al. 2024 (DenseSSM)"},
               [] {
                 return SelectiveTransition<SelectiveTransitionConfig{
                     .channels = 5, .hidden = 2, .width = 3}>();
               }),
    layer_case(
        {.name = "Linear", .sizes = "in the type", .header = "ssm/layer/linear.hpp", .source = ""},
        [] { return Linear<LinearConfig{.inputs = 3, .outputs = 5}>(); }),
    layer_case({.name = "Linear",
                .sizes = "at run time, without bias",
                .header = "ssm/layer/linear.hpp",
                .source = ""},
               [] { return Linear<LinearConfig{.bias = false}>({.inputs = 4, .outputs = 2}); }),
    layer_case({.name = "LayerNorm", .header = "ssm/layer/norm.hpp", .source = "Ba et al. 2016"},
               [] { return LayerNorm<5>(); }),
    layer_case(
        {.name = "RmsNorm", .header = "ssm/layer/norm.hpp", .source = "Zhang and Sennrich 2019"},
        [] { return RmsNorm<>({.channels = 5}); }),
    layer_case({.name = "MeanPool", .header = "ssm/layer/mean_pool.hpp", .source = ""},
               [] { return MeanPool<MeanPoolConfig{.channels = 3}>(); }),
    layer_case({.name = "FeedForward",
                .form = "GELU",
                .header = "ssm/layer/feed_forward.hpp",
                .source = "Vaswani et al. 2017"},
               [] { return FeedForward<FeedForwardConfig{.channels = 3, .hidden = 5}>(); }),
    layer_case({.name = "FeedForward",
                .form = "SwiGLU",
                .header = "ssm/layer/feed_forward.hpp",
                .source = "Shazeer 2020 (GLU variants)"},
               [] {
                 return FeedForward<FeedForwardConfig{.gated = true, .bias = false}>(
                     {.channels = 3, .hidden = 5, .activation = ActivationKind::silu});
               }));

}  // namespace ssm::laws
