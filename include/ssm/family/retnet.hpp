// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/family/options.hpp"
#include "ssm/family/retention_heads_fields.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/model/retnet_language_model.hpp"

namespace ssm {

/// RetNet language models by torchscale's names and fields.
/// Source  microsoft/torchscale, RetNetConfig and RetNetDecoder
struct RetNetFamily {
  using Config = RetNetLanguageModelConfig;
  using LanguageModel = RetNetLanguageModel;
  static constexpr std::string_view name = "retnet";
  static constexpr std::string_view other_embedding = "";

  static LanguageModel make(const Config& config) { return make_language_model(config); }

  static bool describes(const JsonObject& json) {
    return !json.has("model_type") && json.has("decoder_retention_heads");
  }

  /// The sizes from the fields of the published config, with its defaults. Fields that only change
  /// how the published code trains or computes are ignored.
  /// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks
  ///                          for another function
  static Config read(const JsonObject& json) {
    Config config;
    config.d_model = json.integer("decoder_embed_dim", 1);
    config.d_value = json.integer("decoder_value_embed_dim", 1);
    config.num_heads = json.integer("decoder_retention_heads", 1);
    config.d_inner = json.integer("decoder_ffn_embed_dim", 1);
    config.n_layer = json.integer("decoder_layers", 1);
    config.vocab_size = json.integer("vocab_size", 1);
    config.activation = read_activation(json);
    config.scales_embedding = !json.boolean("no_scale_embedding", true);
    config.has_tied_head = json.boolean("share_decoder_input_output_embed", false);
    config.norm_epsilon = json.number("layernorm_eps", config.norm_epsilon, 0, 1);
    config.dropout = config.embed_dropout = json.number("dropout", 0, 0, 0.999);
    config.activation_dropout = json.number("activation_dropout", 0, 0, 0.999);
    if (!json.boolean("decoder_normalize_before", true))
      json.refuse("decoder_normalize_before", "must be true");
    for (const char* unsupported :
         {"deepnorm", "layernorm_embedding", "multiway", "no_output_layer"})
      if (json.boolean(unsupported, false)) json.refuse(unsupported, "is not supported");
    if (json.integer_or("moe_freq", 0, 0) != 0) json.refuse("moe_freq", "must be 0");
    if (json.number("drop_path_rate", 0, 0, 1) != 0) json.refuse("drop_path_rate", "must be 0");
    detail::require_retention_heads(json, "decoder_embed_dim", config.d_model,
                                    "decoder_value_embed_dim", config.d_value, config.num_heads);
    return config;
  }

  /// The same fields, readable by the published code and by `read`.
  static nlohmann::ordered_json write(const Config& config) {
    std::string_view activation;
    for (const auto& [word, kind] : activations)
      if (kind == config.activation) activation = word;
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
            {"vocab_size", config.vocab_size}};
  }

  /// The rotation's angles and the heads' decays follow from the sizes.
  static std::optional<std::vector<Index>> extents_of_constant(const Config& config,
                                                               std::string_view tensor) {
    return detail::extents_of_retention_constant(tensor, "retnet_rel_pos.", config.d_model,
                                                 config.num_heads);
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from the width.
  static Config standard() {
    return {.d_model = 128, .n_layer = 4, .num_heads = 4, .d_value = 0, .d_inner = 0};
  }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.d_model, "channels of the residual stream");
    visit("inner", config.d_inner,
          "channels of values and feed-forward layers (0: twice the width)");
    visit("heads", config.num_heads, "heads of retention");
    visit("dropout", config.dropout, "of embeddings and of what blocks add");
  }
  static void derive(Config& config, const ModelOptions&) {
    config.embed_dropout = config.dropout;  // one number in the published code
    detail::require_at_least_one(config.d_model, "width");
    detail::require_at_least_one(config.n_layer, "layers");
    detail::require_dropout(config.dropout, "dropout");
    if (config.d_inner == 0) config.d_inner = 2 * config.d_model;
    if (config.d_value == 0) config.d_value = config.d_inner;
    detail::require_retention_heads(config.d_model, config.d_value, config.num_heads);
  }

 private:
  static constexpr std::array<std::pair<std::string_view, ActivationKind>, 3> activations{{
      {"swish", ActivationKind::silu},
      {"gelu", ActivationKind::gelu_erf},
      {"relu", ActivationKind::relu},
  }};

  static ActivationKind read_activation(const JsonObject& json) {
    const std::string given = json.text("activation_fn", "gelu");
    for (const auto& [word, kind] : activations)
      if (word == given) return kind;
    json.refuse("activation_fn", std::string("'").append(detail::printable(given)) +
                                     "' is not one of swish, gelu, relu");
  }
};

}  // namespace ssm
