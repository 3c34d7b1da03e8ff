// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/io/json_file.hpp"
#include "ssm/model/retnet_language_model_config.hpp"

namespace ssm {
namespace detail {

inline constexpr std::array<std::pair<std::string_view, ActivationKind>, 3> retnet_activations{{
    {"swish", ActivationKind::silu},
    {"gelu", ActivationKind::gelu_erf},
    {"relu", ActivationKind::relu},
}};

inline ActivationKind read_retnet_activation(const JsonObject& json) {
  const std::string given = json.text("activation_fn", "gelu");
  for (const auto& [name, kind] : retnet_activations)
    if (name == given) return kind;
  json.refuse("activation_fn",
              std::string("'").append(printable(given)) + "' is not one of swish, gelu, relu");
}

/// Heads share widths evenly, and keys turn in pairs.
inline void require_heads(const JsonObject& json, const char* keys_field, Index keys,
                          const char* values_field, Index values, Index heads) {
  if (keys % (2 * heads) != 0)
    json.refuse(keys_field, "must be a multiple of twice the number of heads");
  if (values % heads != 0) json.refuse(values_field, "must be a multiple of the number of heads");
}

}  // namespace detail

/// The sizes of a RetNet model from the fields of the published RetNetConfig, with its defaults. Fields that only change how
/// the published code trains or computes are ignored.
/// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks for another function
/// Source  microsoft/torchscale, RetNetConfig and RetNetDecoder
inline RetNetLanguageModelConfig read_retnet_config(const JsonObject& json) {
  RetNetLanguageModelConfig config;
  config.d_model = json.integer("decoder_embed_dim", 1);
  config.d_value = json.integer("decoder_value_embed_dim", 1);
  config.num_heads = json.integer("decoder_retention_heads", 1);
  config.d_inner = json.integer("decoder_ffn_embed_dim", 1);
  config.n_layer = json.integer("decoder_layers", 1);
  config.vocab_size = json.integer("vocab_size", 1);
  config.activation = detail::read_retnet_activation(json);
  config.scales_embedding = !json.boolean("no_scale_embedding", true);
  config.has_tied_head = json.boolean("share_decoder_input_output_embed", false);
  config.norm_epsilon = json.number("layernorm_eps", config.norm_epsilon, 0, 1);
  config.dropout = json.number("dropout", 0, 0, 0.999);
  config.activation_dropout = json.number("activation_dropout", 0, 0, 0.999);
  config.chunk = json.integer_or("recurrent_chunk_size", config.chunk, 1);
  if (!json.boolean("decoder_normalize_before", true))
    json.refuse("decoder_normalize_before", "must be true");
  for (const char* unsupported : {"deepnorm", "layernorm_embedding", "multiway", "no_output_layer"})
    if (json.boolean(unsupported, false)) json.refuse(unsupported, "is not supported");
  if (json.integer_or("moe_freq", 0, 0) != 0) json.refuse("moe_freq", "must be 0");
  detail::require_heads(json, "decoder_embed_dim", config.d_model, "decoder_value_embed_dim",
                        config.d_value, config.num_heads);
  return config;
}

/// The same from the config.json of a checkpoint.
inline RetNetLanguageModelConfig read_retnet_config(const std::filesystem::path& path) {
  return read_retnet_config(read_json(path));
}

/// The same fields as JSON, readable by the published code and by `read_retnet_config`.
inline nlohmann::ordered_json retnet_config_json(const RetNetLanguageModelConfig& config) {
  std::string_view activation;
  for (const auto& [name, kind] : detail::retnet_activations)
    if (kind == config.activation) activation = name;
  return {{"decoder_embed_dim", config.d_model},
          {"decoder_value_embed_dim", config.d_value},
          {"decoder_retention_heads", config.num_heads},
          {"decoder_ffn_embed_dim", config.d_inner},
          {"decoder_layers", config.n_layer},
          {"decoder_normalize_before", true},
          {"activation_fn", activation},
          {"dropout", config.dropout},
          {"activation_dropout", config.activation_dropout},
          {"no_scale_embedding", !config.scales_embedding},
          {"share_decoder_input_output_embed", config.has_tied_head},
          {"layernorm_eps", config.norm_epsilon},
          {"recurrent_chunk_size", config.chunk},
          {"vocab_size", config.vocab_size}};
}

}  // namespace ssm
