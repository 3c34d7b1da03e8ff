// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>
#include <string>

#include "ssm/backend/reference.hpp"
#include "ssm/layer/attention.hpp"
#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/diagonal_ssm.hpp"
#include "ssm/layer/feed_forward.hpp"
#include "ssm/layer/gated_state_space.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/h3.hpp"
#include "ssm/layer/mamba.hpp"
#include "ssm/layer/norm.hpp"
#include "ssm/layer/retention.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/layer/selective_transition.hpp"
#include "ssm/layer/shift_ssm.hpp"
#include "ssm/train/adamw.hpp"

using namespace ssm;

namespace {

using Names = std::set<std::string>;

/// The tensors that an update with zero gradients leaves as they were: what is not decayed.
template <class L>
Names undecayed(AdamWConfig config = {}) {
  config.weight_decay = 0.5;
  Context<Reference> ctx;
  const L layer;
  auto parameters = layer.template zero_parameters<double>(ctx);
  for_each_parameter(
      [](const ParameterSpec&, auto& tensor) {
        for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] = 1;
      },
      parameters);
  AdamW optimizer(ctx, layer, parameters, config);
  optimizer.update(ctx, parameters, layer.template zero_parameters<double>(ctx), 0.5);
  Names names;
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto& tensor) {
        if (tensor.size() > 0 && tensor.data()[0] == 1) names.insert(spec.name);
      },
      parameters);
  return names;
}

using S4dLayer = S4D<S4DConfig{.channels = 4, .state = 4}>;
using H3Layer = H3<H3Config{.channels = 4, .state = 4}>;
using Gss = GatedStateSpace<GatedStateSpaceConfig{
    .channels = 4, .gate_channels = 6, .state_channels = 2, .state = 4}>;
using MambaLayer = Mamba<MambaConfig{.channels = 4, .state = 4}>;
using DenseMambaLayer = DenseMamba<DenseMambaConfig{.mamba = {.channels = 4, .state = 4}}>;
using RetentionLayer =
    Retention<RetentionConfig{.channels = 4, .value_dim = 8, .heads = 2, .head_weight = true}>;
using GauLayer = GauRetention<GauRetentionConfig{
    .channels = 4, .query_key_dim = 4, .value_dim = 8, .heads = 2, .k_hidden = 2, .v_hidden = 2}>;
using Select =
    SelectiveTransition<SelectiveTransitionConfig{.channels = 4, .hidden = 2, .width = 4}>;

}  // namespace

TEST_CASE("Mamba's step sizes, A and D are not decayed, in DenseMamba neither") {
  const Names dynamics{"A_log", "D", "dt_proj.weight", "dt_proj.bias"};
  Names expected = dynamics;
  expected.insert("conv1d.bias");
  CHECK(undecayed<MambaLayer>() == expected);
  CHECK(undecayed<MambaLayer>({.decay_norms_and_biases = true}) == dynamics);
  CHECK(undecayed<DenseMambaLayer>({.decay_norms_and_biases = true}) == dynamics);
}

TEST_CASE("of every layer the dynamics and nothing else are never decayed") {
  const AdamWConfig all{.decay_norms_and_biases = true};
  const Names diagonal{"kernel.kernel.log_dt", "kernel.kernel.inv_A_real", "kernel.kernel.A_imag",
                       "kernel.kernel.B"};
  Names both = diagonal;
  both.insert("ssm_k_kernel.kernel.B");
  CHECK(undecayed<DiagonalSsm<DiagonalSsmConfig{.channels = 4, .state = 4}>>(all) == diagonal);
  CHECK(undecayed<Gss>(all) == diagonal);
  CHECK(undecayed<ShiftSsm<ShiftSsmConfig{.channels = 4, .state = 4}>>(all) ==
        Names{"ssm_k_kernel.kernel.B"});
  CHECK(undecayed<H3Layer>(all) == both);
  CHECK(undecayed<S4dLayer>(all) ==
        Names{"kernel.kernel.log_dt", "kernel.kernel.log_w_real", "kernel.kernel.w_imag"});
  CHECK(undecayed<Linear<LinearConfig{.inputs = 4, .outputs = 4}>>(all).empty());
  CHECK(undecayed<FeedForward<FeedForwardConfig{.channels = 4, .hidden = 4}>>(all).empty());
  CHECK(undecayed<CausalAttention<CausalAttentionConfig{.channels = 4, .heads = 2}>>(all).empty());
  CHECK(undecayed<RetentionLayer>(all).empty());
  CHECK(undecayed<GauLayer>(all).empty());
  CHECK(undecayed<Select>(all).empty());
  CHECK(undecayed<LayerNorm<4>>(all).empty());
}

TEST_CASE("norms and biases are not decayed unless the configuration says so") {
  CHECK(undecayed<Linear<LinearConfig{.inputs = 4, .outputs = 4}>>() == Names{"bias"});
  CHECK(undecayed<FeedForward<FeedForwardConfig{.channels = 4, .hidden = 4}>>() ==
        Names{"fc1.bias", "fc2.bias"});
  CHECK(undecayed<CausalAttention<CausalAttentionConfig{.channels = 4, .heads = 2}>>() ==
        Names{"Wqkv.bias", "out_proj.bias"});
  CHECK(undecayed<LayerNorm<4>>() == Names{"weight", "bias"});
  CHECK(undecayed<RmsNorm<4>>() == Names{"weight"});
  CHECK(undecayed<RetentionLayer>() == Names{"group_norm.weight"});
  CHECK(undecayed<GauLayer>() == Names{"group_norm.weight", "k_norm.weight", "v_norm.weight"});
}
