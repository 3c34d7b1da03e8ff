// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <filesystem>
#include <string>

#include "ssm/io/dense_fusion_field.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/model/mamba_language_model_config.hpp"

namespace ssm {

/// Rows of the embedding and the head.
inline Index padded_vocabulary(const MambaLanguageModelConfig& config) {
  const Index multiple = config.pad_vocab_size_multiple;
  return (config.vocab_size + multiple - 1) / multiple * multiple;
}

namespace detail {

/// An integer, or "auto" for what follows from the width.
inline Index read_dt_rank(const JsonObject& json, const char* field, Index d_model) {
  const bool is_auto = !json.has(field) || json.json().at(field) == "auto";
  return is_auto ? MambaLanguageModelConfig::usual_dt_rank(d_model) : json.integer(field, 1);
}

/// The integer part of expand · d_model, as the published code has it.
inline Index read_expanded(const JsonObject& json, Index d_model) {
  const double inner = std::floor(json.number("expand", 2, 0, 1024) * static_cast<double>(d_model));
  if (!(inner >= 1 && inner <= static_cast<double>(JsonObject::largest)))
    json.refuse("expand", "gives no usable width");
  return static_cast<Index>(inner);
}

inline void read_mamba_steps(const JsonObject& json, const char* least, const char* most,
                             const char* floor, MambaLanguageModelConfig& config) {
  constexpr double smallest = 1e-30;
  config.dt_min = json.number(least, config.dt_min, smallest, 1e3);
  config.dt_max = json.number(most, config.dt_max, smallest, 1e3);
  config.dt_floor = json.number(floor, config.dt_floor, 0, 1e3);
  if (config.dt_max < config.dt_min) json.refuse(most, std::string("is less than ") + least);
}

/// Fields that Dense Mamba adds to Hugging Face's.
inline void read_dense_mamba(const JsonObject& json, MambaLanguageModelConfig& config) {
  config.dense_block_layers = json.integer("dense_block_layers", 1);
  config.h_select_reduction =
      json.integer_or("h_select_reduction", config.h_select_reduction, 1, config.d_model);
  config.fusion = read_dense_fusion(json, config.fusion);
}

inline MambaLanguageModelConfig read_hugging_face_mamba(const JsonObject& json) {
  MambaLanguageModelConfig config;
  config.d_model = json.integer("hidden_size", 1);
  config.n_layer = json.integer("num_hidden_layers", 1);
  config.vocab_size = json.integer("vocab_size", 1);
  config.d_inner = json.has("intermediate_size") ? json.integer("intermediate_size", 1)
                                                 : read_expanded(json, config.d_model);
  config.d_state = json.integer_or("state_size", config.d_state, 1);
  config.d_conv = json.integer_or("conv_kernel", config.d_conv, 1);
  config.dt_rank = read_dt_rank(json, "time_step_rank", config.d_model);
  config.has_bias = json.boolean("use_bias", true);
  config.has_conv_bias = json.boolean("use_conv_bias", true);
  config.has_tied_head = json.boolean("tie_word_embeddings", true);
  config.norm_epsilon = json.number("layer_norm_epsilon", config.norm_epsilon, 0, 1);
  read_mamba_steps(json, "time_step_min", "time_step_max", "time_step_floor", config);
  const std::string activation = json.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") json.refuse("hidden_act", "must be \"silu\"");
  if (json.text("model_type", "") == "dense_mamba") read_dense_mamba(json, config);
  return config;
}

inline void read_original_ssm(const JsonObject& ssm, MambaLanguageModelConfig& config) {
  if (ssm.text("layer", "Mamba1") != "Mamba1") ssm.refuse("layer", "must be \"Mamba1\"");
  config.d_inner = read_expanded(ssm, config.d_model);
  config.d_state = ssm.integer_or("d_state", config.d_state, 1);
  config.d_conv = ssm.integer_or("d_conv", config.d_conv, 1);
  config.dt_rank = read_dt_rank(ssm, "dt_rank", config.d_model);
  config.has_bias = ssm.boolean("bias", false);
  config.has_conv_bias = ssm.boolean("conv_bias", true);
  read_mamba_steps(ssm, "dt_min", "dt_max", "dt_init_floor", config);
}

inline MambaLanguageModelConfig read_original_mamba(const JsonObject& json) {
  MambaLanguageModelConfig config;
  config.d_model = json.integer("d_model", 1);
  config.n_layer = json.integer("n_layer", 1);
  config.vocab_size = json.integer("vocab_size", 1);
  config.pad_vocab_size_multiple = json.integer_or("pad_vocab_size_multiple", 8, 1, 1 << 20);
  if (padded_vocabulary(config) > JsonObject::largest) json.refuse("vocab_size", "is too large");
  config.has_tied_head = json.boolean("tie_embeddings", true);
  if (!json.boolean("rms_norm", true)) json.refuse("rms_norm", "must be true");
  if (json.integer_or("d_intermediate", 0, 0) != 0) json.refuse("d_intermediate", "must be 0");
  if (json.has("attn_layer_idx") && !json.json().at("attn_layer_idx").empty())
    json.refuse("attn_layer_idx", "must be empty");
  read_original_ssm(json.object("ssm_cfg"), config);
  return config;
}

}  // namespace detail

/// The sizes of a Mamba model from Hugging Face's fields (model_type "mamba", or "dense_mamba" with dense_block_layers,
/// h_select_reduction and dense_fusion) or from those of the published constructor (d_model, n_layer, ssm_cfg). Fields that only change how
/// the published code computes or initialises (residual_in_fp32, fused_add_norm, …) are ignored.
/// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks for another function
/// Source  huggingface/transformers, MambaConfig; state-spaces/mamba, MambaConfig and Mamba
inline MambaLanguageModelConfig read_mamba_config(const JsonObject& json) {
  if (!json.has("model_type")) return detail::read_original_mamba(json);
  const std::string type = json.text("model_type", "");
  if (type != "mamba" && type != "dense_mamba")
    json.refuse("model_type", "must be \"mamba\" or \"dense_mamba\"");
  return detail::read_hugging_face_mamba(json);
}

/// The same from the config.json of a checkpoint.
inline MambaLanguageModelConfig read_mamba_config(const std::filesystem::path& path) {
  return read_mamba_config(read_json(path));
}

/// Hugging Face's fields, readable by transformers and by `read_mamba_config`. They know of no padding: the vocabulary is what
/// it was padded to.
inline nlohmann::ordered_json mamba_config_json(const MambaLanguageModelConfig& config) {
  const bool is_dense = config.dense_block_layers > 0;
  const char* architecture = is_dense ? "DenseMambaForCausalLM" : "MambaForCausalLM";
  nlohmann::ordered_json json{
      {"model_type", is_dense ? "dense_mamba" : "mamba"},
      {"architectures", nlohmann::json::array({architecture})},
      {"hidden_size", config.d_model},
      {"num_hidden_layers", config.n_layer},
      {"vocab_size", padded_vocabulary(config)},
      {"state_size", config.d_state},
      {"conv_kernel", config.d_conv},
      {"expand", static_cast<double>(config.d_inner) / static_cast<double>(config.d_model)},
      {"intermediate_size", config.d_inner},
      {"time_step_rank", config.dt_rank},
      {"time_step_min", config.dt_min},
      {"time_step_max", config.dt_max},
      {"time_step_floor", config.dt_floor},
      {"use_bias", config.has_bias},
      {"use_conv_bias", config.has_conv_bias},
      {"hidden_act", "silu"},
      {"layer_norm_epsilon", config.norm_epsilon},
      {"tie_word_embeddings", config.has_tied_head}};
  if (config.d_inner % config.d_model == 0) json["expand"] = config.d_inner / config.d_model;
  if (is_dense) {
    json["dense_block_layers"] = config.dense_block_layers;
    json["h_select_reduction"] = config.h_select_reduction;
    json[detail::dense_fusion_field] = detail::name_of(config.fusion);
  }
  return json;
}

}  // namespace ssm
