// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "ssm/io/expected_tensors.hpp"
#include "ssm/io/model_tensors.hpp"
#include "ssm/io/retnet_config.hpp"

namespace ssm {

/// Calls visit(ExpectedTensor) for everything in a RetNet checkpoint. The rotation's angles and the heads' decays follow from
/// the sizes.
/// Source  microsoft/torchscale, RetNetDecoder
template <class Visit>
void for_each_retnet_tensor(const RetNetLanguageModelConfig& config, Visit&& visit) {
  const Index width = config.d_model;
  visit(ExpectedTensor{"embed_tokens.weight", {config.vocab_size, width}});
  for (Index i = 0; i < config.n_layer; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    visit(ExpectedTensor{layer + "retention_layer_norm.weight", {width}});
    for (const char* projection : {"q_proj", "k_proj"})
      visit(ExpectedTensor{layer + "retention." + projection + ".weight", {width, width}});
    for (const char* projection : {"v_proj", "g_proj"})
      visit(ExpectedTensor{layer + "retention." + projection + ".weight", {config.d_value, width}});
    visit(ExpectedTensor{layer + "retention.out_proj.weight", {width, config.d_value}});
    visit(ExpectedTensor{layer + "final_layer_norm.weight", {width}});
    for (const char* linear : {"fc1", "gate"})
      visit(ExpectedTensor{layer + "ffn." + linear + ".weight", {config.d_inner, width}});
    visit(ExpectedTensor{layer + "ffn.fc2.weight", {width, config.d_inner}});
  }
  visit(ExpectedTensor{"layer_norm.weight", {width}});
  visit(
      ExpectedTensor{"output_projection.weight", {config.vocab_size, width}, config.has_tied_head});
  visit(ExpectedTensor{"retnet_rel_pos.angle", {width / config.num_heads}, true});
  visit(ExpectedTensor{"retnet_rel_pos.decay", {config.num_heads}, true});
}

/// Lets the files of training programs, which put "decoder." before every name, be read by the decoder's own names.
inline void use_retnet_names(ModelTensors& tensors) {
  constexpr std::string_view prefix = "decoder.";
  tensors.rename([&](std::string_view name) {
    return std::string(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
  });
}

}  // namespace ssm
