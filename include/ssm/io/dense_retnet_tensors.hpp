// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "ssm/io/dense_retnet_config.hpp"
#include "ssm/io/expected_tensors.hpp"
#include "ssm/io/model_tensors.hpp"

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

/// Lets a decoder that other modules hold, or none, be read by the published names. Whatever comes before its
/// embed_tokens.weight becomes "model."; of lm_head.weight, which one of those modules may have, it is taken off.
/// Throws  CheckpointError  for two embeddings, or if two tensors get one name
inline void use_dense_retnet_names(ModelTensors& tensors) {
  constexpr std::string_view embedding = "embed_tokens.weight", head = "lm_head.weight";
  const auto prefix_of = [](std::string_view name,
                            std::string_view end) -> std::optional<std::string_view> {
    if (!name.ends_with(end)) return std::nullopt;
    const std::string_view prefix = name.substr(0, name.size() - end.size());
    if (!prefix.empty() && prefix.back() != '.') return std::nullopt;
    return prefix;
  };
  std::optional<std::string> decoder;
  for (const std::string& name : tensors.names())
    if (const auto prefix = prefix_of(name, embedding)) {
      if (decoder)
        throw CheckpointError(tensors.path_name(), detail::printable(name),
                              "is a second embedding, beside '" +
                                  detail::printable(*decoder + std::string(embedding)) + "'");
      decoder = *prefix;
    }
  if (!decoder) return;
  tensors.rename([&](std::string_view name) {
    const auto outer = prefix_of(name, head);
    if (outer && decoder->starts_with(*outer)) return std::string(head);
    if (name.starts_with(*decoder)) return "model." + std::string(name.substr(decoder->size()));
    return std::string(name);
  });
}

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
