// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/io/json_file.hpp"
#include "ssm/model/h3_language_model.hpp"

namespace ssm {
namespace detail {

inline constexpr std::array<std::pair<std::string_view, DiagonalMeasure>, 7> h3_measures{{
    {"diag-lin", DiagonalMeasure::lin},
    {"diag-inv", DiagonalMeasure::inv},
    {"diag-inv2", DiagonalMeasure::inv2},
    {"diag-quad", DiagonalMeasure::quad},
    {"diag-legs", DiagonalMeasure::legs},
    {"diag-real", DiagonalMeasure::real},
    {"diag-rand", DiagonalMeasure::random},
}};

inline void read_h3_ssm(const JsonObject& ssm, H3LanguageModelConfig& config) {
  if (ssm.text("mode", "diag") != "diag") ssm.refuse("mode", "must be \"diag\"");
  config.d_state = ssm.integer_or("d_state", config.d_state, 1);
  config.head_dim = ssm.integer_or("head_dim", config.head_dim, 1);
  const std::string measure = ssm.text("measure", "diag-lin");
  bool known = false;
  for (const auto& [name, value] : h3_measures)
    if (name == measure) {
      config.measure = value;
      known = true;
    }
  if (!known) ssm.refuse("measure", "'" + printable(measure) + "' is not one of the diagonal ones");
}

inline void read_h3_attention(const JsonObject& attention, H3LanguageModelConfig& config) {
  if (!attention.boolean("causal", true)) attention.refuse("causal", "must be true");
  config.num_heads = attention.integer("num_heads", 1);
  config.rotary_emb_dim = attention.integer_or("rotary_emb_dim", 0, 0);
  for (const char* unsupported : {"rotary_emb_scale_base", "softmax_scale", "dwconv"})
    if (attention.has(unsupported) && attention.json().at(unsupported) != 0 &&
        attention.json().at(unsupported) != false)
      attention.refuse(unsupported, "is not supported");
}

}  // namespace detail

/// The sizes of an H3 model from the arguments of the published constructor. Fields that only change how the published code
/// computes (residual_in_fp32, fused_mlp, …) are ignored.
/// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks for another function
/// Source  HazyResearch/H3, SSMLMHeadModel
inline H3LanguageModelConfig read_h3_config(const JsonObject& json) {
  H3LanguageModelConfig config;
  config.d_model = json.integer("d_model", 1);
  config.n_layer = json.integer("n_layer", 1);
  config.d_inner = json.integer("d_inner", 1);
  config.vocab_size = json.integer("vocab_size", 1);
  config.pad_vocab_size_multiple = json.integer_or("pad_vocab_size_multiple", 1, 1, 1 << 20);
  config.max_position_embeddings = json.integer_or("max_position_embeddings", 0, 0);
  config.layer_norm_epsilon = json.number("layer_norm_epsilon", 1e-5, 0, 1);
  config.embed_dropout = json.number("embed_dropout", 0, 0, 0.999);
  detail::read_h3_ssm(json.object("ssm_cfg"), config);
  if (json.has("attn_layer_idx")) {
    const nlohmann::json& list = json.json().at("attn_layer_idx");
    if (!list.is_array()) json.refuse("attn_layer_idx", "must be a list of layers");
    for (const nlohmann::json& entry : list) {
      const bool valid = entry.is_number_unsigned() &&
                         entry.get<std::uint64_t>() < static_cast<std::uint64_t>(config.n_layer);
      if (!valid) json.refuse("attn_layer_idx", "must list layers from 0 to n_layer - 1");
      config.attn_layer_idx.push_back(entry.get<Index>());
    }
  }
  if (!config.attn_layer_idx.empty()) detail::read_h3_attention(json.object("attn_cfg"), config);
  return config;
}

/// The same from the config.json of a checkpoint.
inline H3LanguageModelConfig read_h3_config(const std::filesystem::path& path) {
  return read_h3_config(read_json(path));
}

/// The same fields as JSON, readable by the published code and by `read_h3_config`.
inline nlohmann::ordered_json h3_config_json(const H3LanguageModelConfig& config) {
  std::string_view measure;
  for (const auto& [name, value] : detail::h3_measures)
    if (value == config.measure) measure = name;
  nlohmann::ordered_json json{{"d_model", config.d_model},
                              {"n_layer", config.n_layer},
                              {"d_inner", config.d_inner},
                              {"vocab_size", config.vocab_size},
                              {"ssm_cfg",
                               {{"mode", "diag"},
                                {"measure", measure},
                                {"d_state", config.d_state},
                                {"head_dim", config.head_dim}}},
                              {"max_position_embeddings", config.max_position_embeddings},
                              {"resid_dropout", 0.0},
                              {"embed_dropout", config.embed_dropout},
                              {"layer_norm_epsilon", config.layer_norm_epsilon},
                              {"pad_vocab_size_multiple", config.pad_vocab_size_multiple}};
  if (!config.attn_layer_idx.empty()) {
    json["attn_layer_idx"] = config.attn_layer_idx;
    json["attn_cfg"] = {{"num_heads", config.num_heads},
                        {"causal", true},
                        {"rotary_emb_dim", config.rotary_emb_dim}};
  }
  return json;
}

}  // namespace ssm
