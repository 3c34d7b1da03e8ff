// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "ssm/io/expected_tensors.hpp"
#include "ssm/io/mamba_config.hpp"
#include "ssm/io/model_tensors.hpp"

namespace ssm {
namespace detail {

template <class Visit>
void for_each_mamba_layer_tensor(const MambaLanguageModelConfig& config, const std::string& layer,
                                 Visit&& visit) {
  const Index width = config.d_model;
  const Index inner = config.d_inner;
  const std::string mixer = layer + "mixer.";
  visit(ExpectedTensor{layer + "norm.weight", {width}});
  visit(ExpectedTensor{mixer + "in_proj.weight", {2 * inner, width}});
  if (config.has_bias) visit(ExpectedTensor{mixer + "in_proj.bias", {2 * inner}});
  visit(ExpectedTensor{mixer + "conv1d.weight", {inner, 1, config.d_conv}});
  if (config.has_conv_bias) visit(ExpectedTensor{mixer + "conv1d.bias", {inner}});
  visit(ExpectedTensor{mixer + "x_proj.weight", {config.dt_rank + 2 * config.d_state, inner}});
  visit(ExpectedTensor{mixer + "dt_proj.weight", {inner, config.dt_rank}});
  visit(ExpectedTensor{mixer + "dt_proj.bias", {inner}});
  visit(ExpectedTensor{mixer + "A_log", {inner, config.d_state}});
  visit(ExpectedTensor{mixer + "D", {inner}});
  visit(ExpectedTensor{mixer + "out_proj.weight", {width, inner}});
  if (config.has_bias) visit(ExpectedTensor{mixer + "out_proj.bias", {width}});
  if (config.dense_block_layers == 0) return;
  const Index gate = width / config.h_select_reduction;
  visit(ExpectedTensor{mixer + "h_select.fc1.weight", {gate, width}});
  visit(ExpectedTensor{mixer + "h_select.fc2.weight", {inner, gate}});
}

}  // namespace detail

/// Calls visit(ExpectedTensor) for everything in a Mamba checkpoint, by Hugging Face's names.
/// Source  huggingface/transformers, MambaForCausalLM
template <class Visit>
void for_each_mamba_tensor(const MambaLanguageModelConfig& config, Visit&& visit) {
  const Index rows = padded_vocabulary(config);
  visit(ExpectedTensor{"backbone.embeddings.weight", {rows, config.d_model}});
  for (Index i = 0; i < config.n_layer; ++i)
    detail::for_each_mamba_layer_tensor(config, "backbone.layers." + std::to_string(i) + ".",
                                        visit);
  visit(ExpectedTensor{"backbone.norm_f.weight", {config.d_model}});
  visit(ExpectedTensor{"lm_head.weight", {rows, config.d_model}, config.has_tied_head});
}

/// Lets the files of the published code be read by Hugging Face's names; those of Hugging Face stay as they are.
/// Throws  CheckpointError  if a file has both names of one tensor
inline void use_mamba_names(ModelTensors& tensors) {
  tensors.rename([](std::string_view name) {
    return std::string(name == "backbone.embedding.weight" ? "backbone.embeddings.weight" : name);
  });
}

}  // namespace ssm
