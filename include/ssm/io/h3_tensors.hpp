// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "ssm/io/expected_tensors.hpp"
#include "ssm/io/h3_config.hpp"

namespace ssm {
namespace detail {

template <class Visit>
void visit_linear(const std::string& name, Index outputs, Index inputs, Visit&& visit) {
  visit(ExpectedTensor{name + ".weight", {outputs, inputs}});
  visit(ExpectedTensor{name + ".bias", {outputs}});
}

template <class Visit>
void for_each_h3_mixer_tensor(const H3LanguageModelConfig& config, const std::string& mixer,
                              Visit&& visit) {
  const Index width = config.d_model;
  const Index heads = width / config.head_dim;
  const Index modes = config.d_state / 2;
  for (const char* projection : {"q_proj", "k_proj", "v_proj", "output_linear"})
    visit_linear(mixer + projection, width, width, visit);
  visit(ExpectedTensor{mixer + "ssm_k_kernel.kernel.B", {width, config.d_state}});
  visit(ExpectedTensor{mixer + "ssm_k_kernel.kernel.C", {1, width, config.d_state}});
  visit(ExpectedTensor{mixer + "ssm_k_D", {width}});
  visit(ExpectedTensor{mixer + "kernel.kernel.log_dt", {heads}});
  visit(ExpectedTensor{mixer + "kernel.kernel.inv_A_real", {heads, modes}});
  visit(ExpectedTensor{mixer + "kernel.kernel.A_imag", {heads, modes}});
  visit(ExpectedTensor{mixer + "kernel.kernel.B", {heads, modes, 2}});
  visit(ExpectedTensor{mixer + "kernel.kernel.C", {1, heads, modes, 2}});
  visit(ExpectedTensor{mixer + "D", {heads}});
}

template <class Visit>
void for_each_h3_attention_tensor(const H3LanguageModelConfig& config, const std::string& mixer,
                                  Visit&& visit) {
  visit_linear(mixer + "Wqkv", 3 * config.d_model, config.d_model, visit);
  visit_linear(mixer + "out_proj", config.d_model, config.d_model, visit);
  if (config.rotary_emb_dim > 0)
    visit(ExpectedTensor{mixer + "rotary_emb.inv_freq", {config.rotary_emb_dim / 2}, true});
}

}  // namespace detail

/// Calls visit(ExpectedTensor) for everything in an H3 checkpoint. The head is the embedding; the rotation's frequencies follow
/// from the sizes.
/// Source  HazyResearch/H3, SSMLMHeadModel
template <class Visit>
void for_each_h3_tensor(const H3LanguageModelConfig& config, Visit&& visit) {
  const Index multiple = config.pad_vocab_size_multiple;
  const Index rows = (config.vocab_size + multiple - 1) / multiple * multiple;
  const Index width = config.d_model;
  visit(ExpectedTensor{H3Names::embedding.text(), {rows, width}});
  if (config.max_position_embeddings > 0)
    visit(ExpectedTensor{H3Names::positions.text(), {config.max_position_embeddings, width}});
  for (Index i = 0; i < config.n_layer; ++i) {
    const std::string layer = "backbone.layers." + std::to_string(i) + ".";
    for (const char* norm : {"norm1", "norm2"})
      for (const char* part : {".weight", ".bias"})
        visit(ExpectedTensor{layer + norm + part, {width}});
    detail::visit_linear(layer + "mlp.fc1", config.d_inner, width, visit);
    detail::visit_linear(layer + "mlp.fc2", width, config.d_inner, visit);
    if (std::count(config.attn_layer_idx.begin(), config.attn_layer_idx.end(), i) > 0)
      detail::for_each_h3_attention_tensor(config, layer + "mixer.", visit);
    else
      detail::for_each_h3_mixer_tensor(config, layer + "mixer.", visit);
  }
  for (const char* part : {".weight", ".bias"})
    visit(ExpectedTensor{H3Names::norm.text() + part, {width}});
  visit(ExpectedTensor{"lm_head.weight", {rows, width}, true});
}

}  // namespace ssm
