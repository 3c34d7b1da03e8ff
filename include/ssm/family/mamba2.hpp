// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/family/mamba.hpp"
#include "ssm/model/mamba2_language_model.hpp"

namespace ssm {

/// Mamba-2 language models by Hugging Face's names, read from the published code's files too.
/// Source  huggingface/transformers, Mamba2ForCausalLM; state-spaces/mamba, MambaLMHeadModel
struct Mamba2Family : MambaFamily {
  using Config = Mamba2LanguageModelConfig;
  using LanguageModel = Mamba2LanguageModel;
  static constexpr std::string_view name = "mamba2";

  static LanguageModel make(const Config& config) { return make_language_model(config); }

  /// Hugging Face's model_type, or the published code's fields with this layer.
  static bool describes(const JsonObject& json) {
    if (json.has("model_type")) return json.text("model_type", "") == "mamba2";
    return is_published(json) && published_layer(json) == "Mamba2";
  }

  /// As MambaFamily. `chunk_size` changes only how the published code computes, and Hugging Face's
  /// code does not read `norm_before_gate`.
  /// Throws  CheckpointError  as MambaFamily
  static Config read(const JsonObject& json) {
    return json.has("model_type") ? read_hugging_face(json) : read_original(json);
  }

  /// Hugging Face's fields, and in fields of ours what they leave out. transformers reads them
  /// where inner is a multiple of the width.
  static nlohmann::ordered_json write(const Config& config) {
    auto json = common_fields("mamba2", "Mamba2ForCausalLM", config);
    json["num_heads"] = config.d_inner / config.head_dim;
    json["head_dim"] = config.head_dim;
    json["n_groups"] = config.n_groups;
    if (config.d_inner % config.d_model == 0) json["expand"] = config.d_inner / config.d_model;
    json["time_step_limit"] = {number_json(config.dt_limit_min), number_json(config.dt_limit_max)};
    if (config.A_min != Config().A_min || config.A_max != Config().A_max)
      json["A_init_range"] = {config.A_min, config.A_max};
    return json;
  }

  static std::optional<std::vector<Index>> extents_of_constant(const Config&, std::string_view) {
    return std::nullopt;
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from the width.
  static Config standard() {
    return {.d_model = 128, .n_layer = 4, .d_inner = 0, .head_dim = 0, .d_state = 64};
  }
  static void for_each_option(auto& config, auto&& visit) {
    MambaFamily::for_each_option(config, visit);
    visit("head-dim", config.head_dim,
          "channels per SSM head (0: 64, or the power of 2 below it that divides inner)");
    visit("groups", config.n_groups, "of heads that share their input and output");
  }
  static void derive(Config& config, const ModelOptions&) {
    derive_common(config);
    if (config.head_dim == 0) config.head_dim = std::gcd(config.d_inner, Config().head_dim);
    if (config.d_inner % config.head_dim != 0)
      throw OptionError("head-dim", std::to_string(config.head_dim) + " does not divide " +
                                        std::to_string(config.d_inner) + " channels of scans");
    const Index heads = config.d_inner / config.head_dim;
    if (config.n_groups < 1 || heads % config.n_groups != 0)
      throw OptionError("groups", std::to_string(config.n_groups) + " groups do not divide " +
                                      std::to_string(heads) + " heads");
  }

 private:
  static Config read_hugging_face(const JsonObject& json) {
    Config config{.n_groups = 8, .has_tied_head = false, .initializer_range = 0.1};
    read_hugging_face_fields(json, config);
    config.head_dim = json.integer_or("head_dim", config.head_dim, 1);
    config.d_inner = read_expanded(json, config.d_model);
    if (json.has("num_heads")) {
      const Index inner = json.integer("num_heads", 1) * config.head_dim;
      if (inner > JsonObject::largest) json.refuse("num_heads", "gives no usable width");
      if (json.has("expand") && inner != config.d_inner)
        json.refuse("expand", "gives " + std::to_string(config.d_inner) +
                                  " channels, but num_heads · head_dim is " +
                                  std::to_string(inner));
      config.d_inner = inner;
    }
    config.n_groups = json.integer_or("n_groups", config.n_groups, 1);
    if (!json.boolean("rms_norm", true)) json.refuse("rms_norm", "must be true");
    read_range(json, "time_step_limit", 0, config.dt_limit_min, config.dt_limit_max);
    read_range(json, "A_init_range", smallest_rate, config.A_min, config.A_max);
    if (std::isinf(config.A_max)) json.refuse("A_init_range", "must be finite");
    return config;
  }

  static Config read_original(const JsonObject& json) {
    Config config;
    const JsonObject ssm = read_published_fields(json, config);
    config.head_dim = ssm.integer_or("headdim", config.head_dim, 1);
    config.n_groups = ssm.integer_or("ngroups", config.n_groups, 1);
    read_range(ssm, "dt_limit", 0, config.dt_limit_min, config.dt_limit_max);
    read_range(ssm, "A_init_range", smallest_rate, config.A_min, config.A_max);
    if (std::isinf(config.A_max)) ssm.refuse("A_init_range", "must be finite");
    if (ssm.integer_or("d_ssm", config.d_inner, 1) != config.d_inner)
      ssm.refuse("d_ssm", "must be expand · d_model, or left out");
    if (!ssm.boolean("rmsnorm", true)) ssm.refuse("rmsnorm", "must be true");
    for (const char* field : {"norm_before_gate", "D_has_hdim"})
      if (ssm.boolean(field, false)) ssm.refuse(field, "must be false");
    ssm.refuse_others({"layer", "expand", "d_state", "d_conv", "headdim", "ngroups", "bias",
                       "conv_bias", "dt_min", "dt_max", "dt_init_floor", "dt_limit", "A_init_range",
                       "d_ssm", "rmsnorm", "norm_before_gate", "D_has_hdim",
                       // of no consequence for the numbers:
                       "chunk_size", "use_mem_eff_path", "sequence_parallel", "layer_idx", "device",
                       "dtype"});
    return config;
  }

  static constexpr double smallest_rate = 1e-30;

  /// A list of two numbers, the lesser one first; the greater one may be infinite.
  static void read_range(const JsonObject& json, const char* field, double least, double& low,
                         double& high) {
    if (!json.has(field)) return;
    const nlohmann::json& list = json.json().at(field);
    bool fits = list.is_array() && list.size() == 2;
    for (std::size_t i = 0; fits && i < 2; ++i) {
      const auto number = number_of(list[i]);
      fits = number.has_value();
      if (fits) (i == 0 ? low : high) = *number;
    }
    if (!fits || !(low >= least && low <= high && std::isfinite(low)))
      json.refuse(
          field, "must be two numbers, the lesser one first, from " + nlohmann::json(least).dump());
  }

  // transformers writes {"__float__": "Infinity"} for the number that JSON has no form for.
  static std::optional<double> number_of(const nlohmann::json& value) {
    if (value.is_number()) return value.get<double>();
    if (value == infinite_json()) return std::numeric_limits<double>::infinity();
    return std::nullopt;
  }
  static nlohmann::ordered_json number_json(double value) {
    return std::isinf(value) ? nlohmann::ordered_json(infinite_json())
                             : nlohmann::ordered_json(value);
  }
  static nlohmann::json infinite_json() { return {{"__float__", "Infinity"}}; }
};

}  // namespace ssm
