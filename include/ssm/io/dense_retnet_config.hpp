// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <filesystem>
#include <string>

#include "ssm/io/dense_fusion_field.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/retnet_config.hpp"  // require_heads
#include "ssm/model/dense_retnet_language_model_config.hpp"

namespace ssm {
namespace detail {

/// The integer part of v_factor · d_model, as the published code has it.
inline Index read_value_width(const JsonObject& json, Index d_model) {
  const double width =
      std::floor(json.number("v_factor", 2, 0, 1024) * static_cast<double>(d_model));
  if (!(width >= 1 && width <= static_cast<double>(JsonObject::largest)))
    json.refuse("v_factor", "gives no usable width");
  return static_cast<Index>(width);
}

/// The factor that `read_value_width` turns into just this width, whatever the division rounds to.
inline double value_factor(Index d_value, Index d_model) {
  const auto width = static_cast<double>(d_value);
  const double factor = width / static_cast<double>(d_model);
  const bool is_short = std::floor(factor * static_cast<double>(d_model)) < width;
  return is_short ? std::nextafter(factor, width + 1) : factor;
}

}  // namespace detail

/// The sizes of a DenseRetNet model from the published config, whose model_type is "llama" or "DenseGauRetNet". Where it
/// leaves the gates' reductions out they are 32, as in the published code of that config, and without dense_fusion, which is
/// our own, fusion is carried.
/// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks for another function
/// Source  WailordHe/DenseSSM, DenseGauRetNetConfig
inline DenseRetNetLanguageModelConfig read_dense_retnet_config(const JsonObject& json) {
  DenseRetNetLanguageModelConfig config;
  const std::string type = json.text("model_type", "DenseGauRetNet");
  if (type != "llama" && type != "DenseGauRetNet")
    json.refuse("model_type", "must be \"DenseGauRetNet\" or \"llama\"");
  config.d_model = json.integer("hidden_size", 1);
  config.n_layer = json.integer("num_hidden_layers", 1);
  config.vocab_size = json.integer("vocab_size", 1);
  config.num_heads = json.integer("num_attention_heads", 1);
  config.d_key = json.integer("query_key_dim", 1);
  config.d_value = detail::read_value_width(json, config.d_model);
  config.dense_block_layers = json.integer("dense_block_layers", 0);
  config.k_select_reduction = json.integer_or("intermediate_k_select_scale", 32, 1, config.d_model);
  config.v_select_reduction = json.integer_or("intermediate_v_select_scale", 32, 1, config.d_model);
  config.fusion = detail::read_dense_fusion(json, config.fusion);
  config.has_tied_head = json.boolean("tie_word_embeddings", false);
  config.norm_epsilon = json.number("rms_norm_eps", config.norm_epsilon, 0, 1);
  config.initializer_range = json.number("initializer_range", config.initializer_range, 0, 100);
  config.dropout = json.number("dropout", config.dropout, 0, 0.999);
  detail::require_heads(json, "query_key_dim", config.d_key, "v_factor", config.d_value,
                        config.num_heads);
  return config;
}

/// The same from the config.json of a checkpoint.
inline DenseRetNetLanguageModelConfig read_dense_retnet_config(const std::filesystem::path& path) {
  return read_dense_retnet_config(read_json(path));
}

/// The same fields as JSON, readable by the published code and by `read_dense_retnet_config`.
inline nlohmann::ordered_json dense_retnet_config_json(
    const DenseRetNetLanguageModelConfig& config) {
  nlohmann::ordered_json json{
      {"model_type", "DenseGauRetNet"},
      {"architectures", nlohmann::json::array({"DenseGauRetNetForCausalLM"})},
      {"hidden_size", config.d_model},
      {"query_key_dim", config.d_key},
      {"num_attention_heads", config.num_heads},
      {"num_hidden_layers", config.n_layer},
      {"v_factor", detail::value_factor(config.d_value, config.d_model)},
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

}  // namespace ssm
