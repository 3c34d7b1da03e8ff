// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "ssm/io/dense_retnet_config.hpp"
#include "ssm/io/expected_tensors.hpp"

namespace ssm {
namespace detail {

template <class Visit>
void for_each_dense_retnet_layer_tensor(const DenseRetNetLanguageModelConfig& config,
                                        const std::string& layer, Visit&& visit) {
  const Index width = config.d_model;
  const std::string unit = layer + "self_attn.";
  visit(ExpectedTensor{layer + "input_layernorm.weight", {width}});
  for (const char* projection : {"q_proj", "k_proj"})
    visit(ExpectedTensor{unit + projection + ".weight", {config.d_key, width}});
  visit(ExpectedTensor{unit + "group_norm.weight", {config.d_value / config.num_heads}});
  visit(ExpectedTensor{unit + "to_hidden.0.weight", {2 * config.d_value, width}});
  visit(ExpectedTensor{unit + "to_out.0.weight", {width, config.d_value}});
  const auto visit_select = [&](const std::string& name, Index inner, Index out) {
    visit(ExpectedTensor{unit + name + "_select.fc1.weight", {inner, width}});
    visit(ExpectedTensor{unit + name + "_select.fc2.weight", {out, inner}});
    visit(ExpectedTensor{unit + name + "_norm.weight", {out}});
  };
  visit_select("k", config.k_select_channels(), config.d_key);
  visit_select("v", config.v_select_channels(), config.d_value);
}

}  // namespace detail

/// The widths of the gates are those of the tensors: published configs do not all say them.
inline void use_gate_widths(const TensorSource auto& tensors,
                            DenseRetNetLanguageModelConfig& config) {
  const auto width = [&](const char* gate, Index& hidden) {
    const std::string name = std::string("model.layers.0.self_attn.") + gate + "_select.fc1.weight";
    if (tensors.contains(name) && tensors.shape(name).size() == 2) hidden = tensors.shape(name)[0];
  };
  width("k", config.k_select_hidden);
  width("v", config.v_select_hidden);
}

/// Calls visit(ExpectedTensor) for everything in a DenseRetNet checkpoint. Every layer has gates, the first does not use its
/// own. The rotation's angles and the heads' decays follow from the sizes.
/// Source  WailordHe/DenseSSM, modeling_dense_gau_retnet
template <class Visit>
void for_each_dense_retnet_tensor(const DenseRetNetLanguageModelConfig& config, Visit&& visit) {
  const Index width = config.d_model;
  visit(ExpectedTensor{"model.embed_tokens.weight", {config.vocab_size, width}});
  for (Index i = 0; i < config.n_layer; ++i)
    detail::for_each_dense_retnet_layer_tensor(config, "model.layers." + std::to_string(i) + ".",
                                               visit);
  visit(ExpectedTensor{"model.norm.weight", {width}});
  visit(ExpectedTensor{"lm_head.weight", {config.vocab_size, width}, config.has_tied_head});
  visit(ExpectedTensor{"model.retnet_rel_pos.angle", {config.d_key / config.num_heads}, true});
  visit(ExpectedTensor{"model.retnet_rel_pos.decay", {config.num_heads}, true});
}

}  // namespace ssm
