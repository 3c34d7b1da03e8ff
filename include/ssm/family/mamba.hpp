// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/family/options.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/model/mamba_language_model.hpp"

namespace ssm {

/// Mamba language models by Hugging Face's names, read from the published code's files too.
/// Source  huggingface/transformers, MambaForCausalLM; state-spaces/mamba, MambaLMHeadModel
struct MambaFamily {
  using Config = MambaLanguageModelConfig;
  using LanguageModel = MambaLanguageModel;
  static constexpr std::string_view name = "mamba";
  static constexpr std::string_view other_embedding = "embedding.weight";  // the published code's

  static LanguageModel make(const Config& config) { return make_language_model(config); }

  /// Hugging Face's model_type, or the published code's fields, which write none.
  static bool describes(const JsonObject& json) {
    if (json.has("model_type")) return json.text("model_type", "") == "mamba";
    return is_published(json) && published_layer(json) != "Mamba2";
  }

  /// The sizes from Hugging Face's fields or from those of the published constructor (d_model,
  /// n_layer, ssm_cfg). Fields that only change how the published code computes or initializes
  /// (residual_in_fp32, fused_add_norm, …) are ignored.
  /// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks
  ///                          for another function
  static Config read(const JsonObject& json) {
    return json.has("model_type") ? read_hugging_face(json) : read_original(json);
  }

  /// Hugging Face's fields, readable by transformers and by `read`. To transformers the vocabulary
  /// is what it was padded to; the tokens that may occur are in a field of ours.
  static nlohmann::ordered_json write(const Config& config) {
    return hugging_face_fields("mamba", "MambaForCausalLM", config);
  }

  static std::optional<std::vector<Index>> extents_of_constant(const Config&, std::string_view) {
    return std::nullopt;
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from the width.
  static Config standard() { return {.d_model = 128, .n_layer = 4, .d_inner = 0, .dt_rank = 0}; }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.d_model, "channels of the residual stream");
    visit("inner", config.d_inner, "channels of the scans (0: twice the width)");
    visit("state", config.d_state, "state size of the scans");
    visit("dropout", config.embed_dropout, "of embeddings");
  }
  static void derive(Config& config, const ModelOptions&) {
    derive_common(config);
    if (config.dt_rank == 0) config.dt_rank = Config::default_dt_rank(config.d_model);
  }

 protected:
  /// The published code's fields, which H3's could be taken for: H3 asks before.
  static bool is_published(const JsonObject& json) {
    return !json.has("model_type") && json.has("d_model") && json.has("n_layer");
  }
  static std::string published_layer(const JsonObject& json) {
    return json.object("ssm_cfg").text("layer", "Mamba1");
  }

  static Config read_hugging_face(const JsonObject& json) {
    Config config;
    read_hugging_face_fields(json, config);
    config.d_inner = json.has("intermediate_size") ? json.integer("intermediate_size", 1)
                                                   : read_expanded(json, config.d_model);
    config.dt_rank = read_dt_rank(json, "time_step_rank", config.d_model);
    if (json.text("time_step_init_scheme", "random") != "random")
      json.refuse("time_step_init_scheme", "must be \"random\"");
    if (json.number("time_step_scale", 1, 0, 1e3) != 1) json.refuse("time_step_scale", "must be 1");
    return config;
  }

  static nlohmann::ordered_json hugging_face_fields(const char* model_type,
                                                    const char* architecture,
                                                    const Config& config) {
    auto json = common_fields(model_type, architecture, config);
    // transformers wants an integer here and takes the width of intermediate_size.
    json["expand"] = std::max<Index>(1, config.d_inner / config.d_model);
    json["intermediate_size"] = config.d_inner;
    json["time_step_rank"] = config.dt_rank;
    return json;
  }

  // What the configs of Mamba and Mamba-2 have in common. Fields that are left out stay as they
  // are in `config`.

  template <class C>
  static void derive_common(C& config) {
    detail::require_at_least_one(config.d_model, "width");
    detail::require_at_least_one(config.n_layer, "layers");
    detail::require_dropout(config.embed_dropout, "dropout");
    detail::require_at_least_one(config.d_state, "state");
    if (config.d_inner == 0) config.d_inner = C::default_d_inner(config.d_model);
  }

  template <class C>
  static void read_hugging_face_fields(const JsonObject& json, C& config) {
    config.d_model = json.integer("hidden_size", 1);
    config.n_layer = json.integer("num_hidden_layers", 1);
    const Index rows = json.integer("vocab_size", 1);
    config.vocab_size = json.integer_or(unpadded, rows, 1, rows);
    config.pad_vocab_size_multiple = config.vocab_size == rows ? 1 : rows;
    config.d_state = json.integer_or("state_size", config.d_state, 1);
    config.d_conv = json.integer_or("conv_kernel", config.d_conv, 1);
    config.has_bias = json.boolean("use_bias", false);
    config.has_conv_bias = json.boolean("use_conv_bias", true);
    config.has_tied_head = json.boolean("tie_word_embeddings", config.has_tied_head);
    config.norm_epsilon = json.number("layer_norm_epsilon", config.norm_epsilon, 0, 1);
    config.embed_dropout = json.number("embed_dropout", 0, 0, 0.999);
    config.initializer_range = json.number("initializer_range", config.initializer_range, 0, 100);
    read_steps(json, "time_step_min", "time_step_max", "time_step_floor", config);
    const std::string activation = json.text("hidden_act", "silu");
    if (activation != "silu" && activation != "swish")
      json.refuse("hidden_act", "must be \"silu\"");
  }

  template <class C>
  static nlohmann::ordered_json common_fields(const char* model_type, const char* architecture,
                                              const C& config) {
    const Index rows = config.padded_vocabulary();
    nlohmann::ordered_json json{{"model_type", model_type},
                                {"architectures", nlohmann::json::array({architecture})},
                                {"hidden_size", config.d_model},
                                {"num_hidden_layers", config.n_layer},
                                {"vocab_size", rows},
                                {"state_size", config.d_state},
                                {"conv_kernel", config.d_conv},
                                {"time_step_min", config.dt_min},
                                {"time_step_max", config.dt_max},
                                {"time_step_floor", config.dt_floor},
                                {"use_bias", config.has_bias},
                                {"use_conv_bias", config.has_conv_bias},
                                {"hidden_act", "silu"},
                                {"layer_norm_epsilon", config.norm_epsilon},
                                {"initializer_range", config.initializer_range},
                                {"tie_word_embeddings", config.has_tied_head}};
    if (config.vocab_size != rows) json[unpadded] = config.vocab_size;
    if (config.embed_dropout > 0) json["embed_dropout"] = config.embed_dropout;
    return json;
  }

  /// Returns ssm_cfg, whose other fields are the caller's to read and to refuse.
  template <class C>
  static JsonObject read_published_fields(const JsonObject& json, C& config) {
    config.d_model = json.integer("d_model", 1);
    config.n_layer = json.integer("n_layer", 1);
    config.vocab_size = json.integer("vocab_size", 1);
    config.pad_vocab_size_multiple = json.integer_or("pad_vocab_size_multiple", 8, 1, 1 << 20);
    if (config.padded_vocabulary() > JsonObject::largest) json.refuse("vocab_size", "is too large");
    config.has_tied_head = json.boolean("tie_embeddings", true);
    if (!json.boolean("rms_norm", true)) json.refuse("rms_norm", "must be true");
    if (json.integer_or("d_intermediate", 0, 0) != 0) json.refuse("d_intermediate", "must be 0");
    if (json.has("attn_layer_idx") && !json.json().at("attn_layer_idx").empty())
      json.refuse("attn_layer_idx", "must be empty");
    JsonObject ssm = json.object("ssm_cfg");
    config.d_inner = read_expanded(ssm, config.d_model);
    config.d_state = ssm.integer_or("d_state", config.d_state, 1);
    config.d_conv = ssm.integer_or("d_conv", config.d_conv, 1);
    config.has_bias = ssm.boolean("bias", false);
    config.has_conv_bias = ssm.boolean("conv_bias", true);
    read_steps(ssm, "dt_min", "dt_max", "dt_init_floor", config);
    return ssm;
  }

  /// The integer part of expand · d_model, as the published code has it.
  static Index read_expanded(const JsonObject& json, Index d_model) {
    const double inner =
        std::floor(json.number("expand", 2, 0, 1024) * static_cast<double>(d_model));
    if (!(inner >= 1 && inner <= static_cast<double>(JsonObject::largest)))
      json.refuse("expand", "gives no usable width");
    return static_cast<Index>(inner);
  }

 private:
  static constexpr const char* unpadded = "unpadded_vocab_size";  // our own

  static Config read_original(const JsonObject& json) {
    Config config;
    const JsonObject ssm = read_published_fields(json, config);
    if (published_layer(json) != "Mamba1") ssm.refuse("layer", "must be \"Mamba1\" or \"Mamba2\"");
    config.dt_rank = read_dt_rank(ssm, "dt_rank", config.d_model);
    if (ssm.text("dt_init", "random") != "random") ssm.refuse("dt_init", "must be \"random\"");
    if (ssm.number("dt_scale", 1, 0, 1e3) != 1) ssm.refuse("dt_scale", "must be 1");
    ssm.refuse_others({"layer", "expand", "d_state", "d_conv", "dt_rank", "bias", "conv_bias",
                       "dt_min", "dt_max", "dt_init_floor", "dt_init", "dt_scale",
                       // of no consequence for the numbers:
                       "use_fast_path", "layer_idx", "device", "dtype"});
    return config;
  }

  /// An integer, or "auto" for what follows from the width.
  static Index read_dt_rank(const JsonObject& json, const char* field, Index d_model) {
    const bool is_auto = !json.has(field) || json.json().at(field) == "auto";
    return is_auto ? Config::default_dt_rank(d_model) : json.integer(field, 1);
  }
  template <class C>
  static void read_steps(const JsonObject& json, const char* least, const char* most,
                         const char* floor, C& config) {
    constexpr double smallest = 1e-30;
    config.dt_min = json.number(least, config.dt_min, smallest, 1e3);
    config.dt_max = json.number(most, config.dt_max, smallest, 1e3);
    config.dt_floor = json.number(floor, config.dt_floor, 0, 1e3);
    if (config.dt_max < config.dt_min) json.refuse(most, std::string("is less than ") + least);
  }
};

}  // namespace ssm
