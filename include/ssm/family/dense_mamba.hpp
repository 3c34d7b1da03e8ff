// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string_view>

#include "ssm/family/dense_fusion_field.hpp"
#include "ssm/family/mamba.hpp"

namespace ssm {

/// Mamba language models whose layers read the hidden states of the layers before them. No code of
/// them is published: the fields are Hugging Face's for Mamba and those of DenseSSM's other models,
/// docs/60_models.md says what is fixed here.
/// Source  He et al. 2024 (DenseSSM) §3
struct DenseMambaFamily : MambaFamily {
  using LanguageModel = DenseMambaLanguageModel;
  static constexpr std::string_view name = "dense-mamba";

  static LanguageModel make(const Config& config) { return make_dense_language_model(config); }

  static bool describes(const JsonObject& json) {
    return json.text("model_type", "") == "dense_mamba";
  }

  /// Throws  CheckpointError  as MambaFamily
  static Config read(const JsonObject& json) {
    Config config = read_hugging_face(json);
    config.dense_block_layers = json.integer("dense_block_layers", 1);
    config.h_select_reduction =
        json.integer_or("h_select_reduction", config.h_select_reduction, 1, config.d_model);
    config.fusion = detail::read_dense_fusion(json, config.fusion);
    return config;
  }

  static nlohmann::ordered_json write(const Config& config) {
    auto json = hugging_face_fields("dense_mamba", "DenseMambaForCausalLM", config);
    json["dense_block_layers"] = config.dense_block_layers;
    json["h_select_reduction"] = config.h_select_reduction;
    json[detail::dense_fusion_field] = detail::name_of(config.fusion);
    return json;
  }

  static Config standard() {
    Config config = MambaFamily::standard();
    config.dense_block_layers = 2;
    return config;
  }
  static void for_each_option(auto& config, auto&& visit) {
    MambaFamily::for_each_option(config, visit);
    detail::visit_dense_options(config.dense_block_layers, config.fusion, visit);
    visit("select-reduction", config.h_select_reduction, detail::select_reduction_help);
  }
  static void derive(Config& config, const ModelOptions& given) {
    MambaFamily::derive(config, given);
    config.h_select_reduction = std::clamp<Index>(config.h_select_reduction, 1, config.d_model);
    if (config.dense_block_layers < 1)
      throw OptionError("sources", "a dense Mamba model needs at least 1; without, train mamba");
  }
};

}  // namespace ssm
