// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/family/dense_fusion_field.hpp"
#include "ssm/family/retention_heads_fields.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/tensor_source.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"

namespace ssm {

/// DenseRetNet language models by DenseSSM's published names and fields.
/// Source  WailordHe/DenseSSM, DenseGauRetNetConfig and modeling_dense_gau_retnet
struct DenseRetNetFamily {
  using Config = DenseRetNetLanguageModelConfig;
  using LanguageModel = DenseRetNetLanguageModel;
  static constexpr std::string_view name = "dense-retnet";
  static constexpr std::string_view other_embedding = "";

  static LanguageModel make(const Config& config) { return make_language_model(config); }

  /// The published model_type "llama" is that of models that are none.
  static bool describes(const JsonObject& json) {
    return json.has("query_key_dim") && json.has("dense_block_layers");
  }

  /// The sizes from the published config, whose model_type is "llama" or "DenseGauRetNet". Where it
  /// leaves the gates' reductions out they are 32, as in the published code of that config, and
  /// without dense_fusion, which is our own, fusion is carried.
  /// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks
  ///                          for another function
  static Config read(const JsonObject& json) {
    Config config;
    const std::string type = json.text("model_type", "DenseGauRetNet");
    if (type != "llama" && type != "DenseGauRetNet")
      json.refuse("model_type", "must be \"DenseGauRetNet\" or \"llama\"");
    config.d_model = json.integer("hidden_size", 1);
    config.n_layer = json.integer("num_hidden_layers", 1);
    config.vocab_size = json.integer("vocab_size", 1);
    config.num_heads = json.integer("num_attention_heads", 1);
    config.d_key = json.integer("query_key_dim", 1);
    config.d_value = read_value_width(json, config.d_model);
    config.dense_block_layers = json.integer("dense_block_layers", 0);
    config.k_select_reduction =
        json.integer_or("intermediate_k_select_scale", 32, 1, config.d_model);
    config.v_select_reduction =
        json.integer_or("intermediate_v_select_scale", 32, 1, config.d_model);
    config.fusion = detail::read_dense_fusion(json, config.fusion);
    config.has_tied_head = json.boolean("tie_word_embeddings", false);
    config.norm_epsilon = json.number("rms_norm_eps", config.norm_epsilon, 0, 1);
    config.initializer_range = json.number("initializer_range", config.initializer_range, 0, 100);
    config.dropout = json.number("dropout", config.dropout, 0, 0.999);
    if (json.boolean("deepnorm", false)) json.refuse("deepnorm", "is not supported");
    detail::require_retention_heads(json, "query_key_dim", config.d_key, "v_factor", config.d_value,
                                    config.num_heads);
    return config;
  }

  /// The same fields, readable by the published code and by `read`.
  static nlohmann::ordered_json write(const Config& config) {
    nlohmann::ordered_json json{
        {"model_type", "DenseGauRetNet"},
        {"architectures", nlohmann::json::array({"DenseGauRetNetForCausalLM"})},
        {"hidden_size", config.d_model},
        {"query_key_dim", config.d_key},
        {"num_attention_heads", config.num_heads},
        {"num_hidden_layers", config.n_layer},
        {"v_factor", value_factor(config.d_value, config.d_model)},
        {"dense_block_layers", config.dense_block_layers},
        {"intermediate_k_select_scale", config.k_select_reduction},
        {"intermediate_v_select_scale", config.v_select_reduction},
        {detail::dense_fusion_field, detail::name_of(config.fusion)},
        {"rms_norm_eps", config.norm_epsilon},
        {"initializer_range", config.initializer_range},
        {"vocab_size", config.vocab_size},
        {"tie_word_embeddings", config.has_tied_head},
        {"deepnorm", false},
        {"dropout", config.dropout}};
    if (config.d_value % config.d_model == 0) json["v_factor"] = config.d_value / config.d_model;
    return json;
  }

  /// The widths of the gates are those of the tensors: published configs do not all say them.
  static void complete(Config& config, const TensorSource auto& tensors) {
    const auto width = [&](const char* gate, Index& hidden) {
      const std::string tensor =
          std::string("model.layers.0.self_attn.") + gate + "_select.fc1.weight";
      if (tensors.contains(tensor) && tensors.shape(tensor).size() == 2)
        hidden = tensors.shape(tensor)[0];
    };
    width("k", config.k_select_hidden);
    width("v", config.v_select_hidden);
  }

  /// The rotation's angles and the heads' decays follow from the sizes.
  static std::optional<std::vector<Index>> extents_of_constant(const Config& config,
                                                               std::string_view tensor) {
    return detail::extents_of_retention_constant(tensor, "model.retnet_rel_pos.", config.d_key,
                                                 config.num_heads);
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from other settings.
  static Config standard() {
    return {.d_model = 128,
            .n_layer = 4,
            .num_heads = 4,
            .d_key = 0,
            .d_value = 0,
            .initializer_range = 0,
            .dropout = 0};
  }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.d_model, "channels of the residual stream");
    visit("inner", config.d_value, "channels of values (0: twice the width)");
    visit("heads", config.num_heads, "heads of retention");
    detail::visit_dense_options(config.dense_block_layers, config.fusion, visit);
    visit("select-reduction", config.k_select_reduction, detail::select_reduction_help);
    visit("initializer-range", config.initializer_range,
          "standard deviation of the first weights (0: 0.8 / square root of the width)");
    visit("dropout", config.dropout, "of embeddings and of what blocks add");
  }
  static void derive(Config& config, const ModelOptions& given) {
    detail::require_at_least_one(config.d_model, "width");
    detail::require_at_least_one(config.n_layer, "layers");
    detail::require_dropout(config.dropout, "dropout");
    for (const char* option : {"fusion", "select-reduction"})
      if (config.dense_block_layers == 0 && given.contains(option))
        throw OptionError(option, "has no effect without --sources");
    if (config.d_key == 0) config.d_key = config.d_model / 2;
    if (config.d_value == 0) config.d_value = 2 * config.d_model;
    config.k_select_reduction = std::clamp<Index>(config.k_select_reduction, 1, config.d_model);
    config.v_select_reduction = config.k_select_reduction;
    // The published 0.02 at its width of 1536, and as much at others: 0.02·√1536 ≈ 0.8.
    if (config.initializer_range == 0)
      config.initializer_range = 0.02 * std::sqrt(1536 / static_cast<double>(config.d_model));
    detail::require_retention_heads(config.d_key, config.d_value, config.num_heads);
  }

 private:
  /// The integer part of v_factor · d_model, as the published code has it.
  static Index read_value_width(const JsonObject& json, Index d_model) {
    const double width =
        std::floor(json.number("v_factor", 2, 0, 1024) * static_cast<double>(d_model));
    if (!(width >= 1 && width <= static_cast<double>(JsonObject::largest)))
      json.refuse("v_factor", "gives no usable width");
    return static_cast<Index>(width);
  }
  /// The factor that `read_value_width` turns into just this width, whatever the division rounds
  /// to.
  static double value_factor(Index d_value, Index d_model) {
    const auto width = static_cast<double>(d_value);
    const double factor = width / static_cast<double>(d_model);
    const bool is_short = std::floor(factor * static_cast<double>(d_model)) < width;
    return is_short ? std::nextafter(factor, width + 1) : factor;
  }
};

}  // namespace ssm
