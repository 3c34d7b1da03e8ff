// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ssm/family/options.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/model_tensors.hpp"
#include "ssm/model/h3_language_model.hpp"

namespace ssm {

/// H3 language models, hybrid with attention or not, by the names and fields of the published code.
/// Source  HazyResearch/H3, SSMLMHeadModel
struct H3Family {
  using Config = H3LanguageModelConfig;
  using LanguageModel = H3LanguageModel;
  static constexpr std::string_view name = "h3";
  static constexpr std::string_view other_embedding = "";

  static LanguageModel make(const Config& config) { return make_language_model(config); }
  static bool has_attention(const Config& config) { return !config.attn_layer_idx.empty(); }

  /// The published code writes no model_type. d_inner, which it cannot do without, or a field that
  /// no other family has.
  static bool describes(const JsonObject& json) {
    if (json.has("model_type") || !json.has("d_model") || !json.has("n_layer")) return false;
    for (const char* field :
         {"d_inner", "max_position_embeddings", "resid_dropout", "embed_dropout",
          "layer_norm_epsilon", "fused_mlp", "fused_dropout_add_ln"})
      if (json.has(field)) return true;
    const JsonObject ssm = json.object("ssm_cfg");
    return ssm.has("mode") || ssm.has("measure") || ssm.has("head_dim");
  }

  /// The sizes from the arguments of the published constructor. Fields that only change how the
  /// published code computes (residual_in_fp32, fused_mlp, …) are ignored.
  /// Throws  CheckpointError  for a field that is missing, of another type, out of range, or asks
  ///                          for another function
  static Config read(const JsonObject& json) {
    Config config;
    config.d_model = json.integer("d_model", 1);
    config.n_layer = json.integer("n_layer", 1);
    config.d_inner = json.integer("d_inner", 1);
    config.vocab_size = json.integer("vocab_size", 1);
    config.pad_vocab_size_multiple = json.integer_or("pad_vocab_size_multiple", 1, 1, 1 << 20);
    config.max_position_embeddings = json.integer_or("max_position_embeddings", 0, 0);
    config.layer_norm_epsilon = json.number("layer_norm_epsilon", 1e-5, 0, 1);
    config.embed_dropout = json.number("embed_dropout", 0, 0, 0.999);
    config.resid_dropout = json.number("resid_dropout", 0, 0, 0.999);
    config.initializer_range = json.object("initializer_cfg")
                                   .number("initializer_range", config.initializer_range, 0, 100);
    read_ssm(json.object("ssm_cfg"), config);
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
    if (!config.attn_layer_idx.empty()) read_attention(json.object("attn_cfg"), config);
    return config;
  }

  /// The same fields, readable by the published code and by `read`.
  static nlohmann::ordered_json write(const Config& config) {
    std::string_view measure;
    for (const auto& [word, value] : measures)
      if (measure.empty() && value == config.measure) measure = word;
    nlohmann::ordered_json json{
        {"d_model", config.d_model},
        {"n_layer", config.n_layer},
        {"d_inner", config.d_inner},
        {"vocab_size", config.vocab_size},
        {"ssm_cfg",
         {{"mode", "diag"},
          {"measure", measure},
          {"d_state", config.d_state},
          {"head_dim", config.head_dim},
          {"disc", config.discretization == Discretization::zero_order_hold ? "zoh" : "bilinear"},
          {"dt_min", config.dt_min},
          {"dt_max", config.dt_max}}},
        {"max_position_embeddings", config.max_position_embeddings},
        {"resid_dropout", config.resid_dropout},
        {"embed_dropout", config.embed_dropout},
        {"layer_norm_epsilon", config.layer_norm_epsilon},
        {"initializer_cfg", {{"initializer_range", config.initializer_range}}},
        {"pad_vocab_size_multiple", config.pad_vocab_size_multiple}};
    if (!config.attn_layer_idx.empty()) {
      json["attn_layer_idx"] = config.attn_layer_idx;
      json["attn_cfg"] = {{"num_heads", config.num_heads},
                          {"causal", true},
                          {"rotary_emb_dim", config.rotary_emb_dim}};
    }
    return json;
  }

  /// Published files have names of several ages. The oldest put a norm before all blocks and each
  /// block's norms behind its mixers, so that every norm moves on by half a block:
  ///   ln_0 → layers.0.norm1    layers.l.norm1 → layers.l.norm2
  ///   layers.l.norm2 → layers.(l+1).norm1, of the last block → ln_f
  /// Source  HazyResearch/H3, SSMLMHeadModel.load_state_dict
  static void use_current_names(ModelTensors& tensors, const Config& config) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 3> renames{{
        {"s4seq.encoder.", "backbone."},
        {"embedding.", "backbone.embeddings.word_embeddings."},
        {"backbone.norm.", "backbone.ln_0."},
    }};
    const auto current = [&](std::string_view stored) {
      const std::size_t wrapper = stored.starts_with("model.") ? 6 : 0;
      std::string result(stored.substr(wrapper));
      for (const auto& [old, now] : renames)
        if (result.starts_with(old)) result = std::string(now) + result.substr(old.size());
      return std::string(stored.substr(0, wrapper)) + result;
    };
    bool is_old = false, has_first_norm = false;
    for (const std::string& stored : tensors.names()) {
      const std::string now = current(stored);
      is_old = is_old || now != stored;
      has_first_norm = has_first_norm || now.ends_with("backbone.ln_0.weight");
    }
    if (!is_old && !has_first_norm) return;
    tensors.rename([&](std::string_view stored) {
      const std::string now = current(stored);
      return has_first_norm ? with_norm_before(now, config.n_layer) : now;
    });
  }

  /// The rotation's frequencies follow from the sizes.
  static std::optional<std::vector<Index>> extents_of_constant(const Config& config,
                                                               std::string_view tensor) {
    if (config.rotary_emb_dim > 0 && tensor.ends_with(".mixer.rotary_emb.inv_freq"))
      return std::vector<Index>{config.rotary_emb_dim / 2};
    return std::nullopt;
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from the width.
  static Config standard() { return {.d_inner = 0, .d_state = 32, .num_heads = 4}; }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.d_model, "channels of the residual stream");
    visit("inner", config.d_inner, "channels of feed-forward layers (0: four times the width)");
    visit("state", config.d_state, "state size of the SSMs, an even number");
    visit("head-dim", config.head_dim, "channels per SSM head");
    visit("attention-layers", config.attn_layer_idx,
          "blocks with attention in place of H3, from 0");
    visit("heads", config.num_heads, "heads of attention");
    visit("rotary", config.rotary_emb_dim,
          "channels of an attention head that turn with the position (0: none, or all where every "
          "block is attention and there are no learned positions)");
    visit("positions", config.max_position_embeddings,
          "learned absolute positions, which no text can be longer than (0: none)");
    visit("dropout", config.embed_dropout, "of embeddings");
    visit("residual-dropout", config.resid_dropout, "of what blocks add");
  }
  static void derive(Config& config, const ModelOptions& given) {
    detail::require_at_least_one(config.d_model, "width");
    detail::require_at_least_one(config.n_layer, "layers");
    detail::require_dropout(config.embed_dropout, "dropout");
    detail::require_dropout(config.resid_dropout, "residual-dropout");
    if (config.d_inner == 0) config.d_inner = 4 * config.d_model;
    if (config.head_dim < 1 || config.d_model % config.head_dim != 0)
      throw OptionError("head-dim", std::to_string(config.head_dim) +
                                        " does not divide a width of " +
                                        std::to_string(config.d_model));
    if (config.d_state < 2 || config.d_state % 2 != 0)
      throw OptionError("state", std::to_string(config.d_state) + " is not even");
    for (const Index layer : config.attn_layer_idx)
      if (layer >= config.n_layer)
        throw OptionError("attention-layers", std::to_string(layer) + " is not one of " +
                                                  std::to_string(config.n_layer) + " layers");
    std::sort(config.attn_layer_idx.begin(), config.attn_layer_idx.end());
    for (const char* option : {"heads", "rotary"})
      if (config.attn_layer_idx.empty() && given.contains(option))
        throw OptionError(option, "has no effect without --attention-layers");
    if (config.attn_layer_idx.empty()) return;
    if (config.num_heads < 1 || config.d_model % config.num_heads != 0)
      throw OptionError("heads", std::to_string(config.num_heads) +
                                     " heads do not divide a width of " +
                                     std::to_string(config.d_model));
    // Only attention needs to be told where a token is.
    const bool attends_alone = static_cast<Index>(config.attn_layer_idx.size()) == config.n_layer;
    if (attends_alone && config.rotary_emb_dim == 0 && config.max_position_embeddings == 0)
      config.rotary_emb_dim = config.d_model / config.num_heads / 2 * 2;
  }

 private:
  static std::string with_norm_before(const std::string& stored, Index layers) {
    const auto place = [&](std::string_view part) { return stored.find(part); };
    constexpr std::string_view first = "backbone.ln_0.", block = "backbone.layers.";
    if (const auto at = place(first); at != std::string::npos)
      return stored.substr(0, at) + "backbone.layers.0.norm1." + stored.substr(at + first.size());
    const auto at = place(block);
    if (at == std::string::npos) return stored;
    const std::string rest = stored.substr(at + block.size());
    const std::size_t dot = rest.find('.');
    Index layer = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
    const bool is_number = error == std::errc() && end == rest.data() + dot;
    if (dot == std::string::npos || !is_number || layer < 0 || layer >= layers) return stored;
    const std::string tensor = rest.substr(dot + 1), front = stored.substr(0, at);
    if (tensor.starts_with("norm1."))
      return front + std::string(block) + std::to_string(layer) + ".norm2." + tensor.substr(6);
    if (!tensor.starts_with("norm2.")) return stored;
    if (layer + 1 == layers) return front + "backbone.ln_f." + tensor.substr(6);
    return front + std::string(block) + std::to_string(layer + 1) + ".norm1." + tensor.substr(6);
  }
  /// Published words first: they are the ones that are written.
  static constexpr std::array<std::pair<std::string_view, DiagonalMeasure>, 12> measures{{
      {"diag-lin", DiagonalMeasure::lin},
      {"diag-inv", DiagonalMeasure::inv},
      {"diag-inv2", DiagonalMeasure::inv2},
      {"diag-quad", DiagonalMeasure::quad},
      {"diag-legs", DiagonalMeasure::legs},
      {"diag-real", DiagonalMeasure::real},
      {"diag-random", DiagonalMeasure::random},
      {"diag-linear", DiagonalMeasure::lin},
      {"diag-inverse", DiagonalMeasure::inv},
      {"diag-inverse2", DiagonalMeasure::inv2},
      {"diag-quadratic", DiagonalMeasure::quad},
      {"diag-rand", DiagonalMeasure::random},
  }};

  static void read_ssm(const JsonObject& ssm, Config& config) {
    if (ssm.text("mode", "diag") != "diag") ssm.refuse("mode", "must be \"diag\"");
    config.d_state = ssm.integer_or("d_state", config.d_state, 1);
    config.head_dim = ssm.integer_or("head_dim", config.head_dim, 1);
    config.dt_min = ssm.number("dt_min", config.dt_min, 1e-30, 1e3);
    config.dt_max = ssm.number("dt_max", config.dt_max, 1e-30, 1e3);
    if (config.dt_max < config.dt_min) ssm.refuse("dt_max", "is less than dt_min");
    const std::string measure = ssm.text("measure", "diag-lin");
    const auto known = std::find_if(measures.begin(), measures.end(),
                                    [&](const auto& entry) { return entry.first == measure; });
    if (known == measures.end())
      ssm.refuse("measure", "'" + detail::printable(measure) + "' is not one of the diagonal ones");
    config.measure = known->second;
    const std::string discretization = ssm.text("disc", "bilinear");
    if (discretization != "bilinear" && discretization != "zoh")
      ssm.refuse("disc", "must be \"bilinear\" or \"zoh\"");
    config.discretization =
        discretization == "zoh" ? Discretization::zero_order_hold : Discretization::bilinear;
    if (ssm.text("real_type", "exp") != "exp") ssm.refuse("real_type", "must be \"exp\"");
    if (ssm.integer_or("channels", 1, 1) != 1) ssm.refuse("channels", "must be 1");
    if (ssm.boolean("force_real", false)) ssm.refuse("force_real", "must be false");
    if (ssm.has("n_ssm") && ssm.integer("n_ssm", 1) != config.d_model / config.head_dim)
      ssm.refuse("n_ssm", "must be the number of heads, or left out");
    ssm.refuse_others({"mode", "d_state", "head_dim", "dt_min", "dt_max", "measure", "disc",
                       "real_type", "channels", "force_real", "n_ssm",
                       // of no consequence for the numbers:
                       "l_max", "rank", "verbose", "deterministic", "dropout", "use_fast_fftconv"});
  }

  static void read_attention(const JsonObject& attention, Config& config) {
    if (!attention.boolean("causal", true)) attention.refuse("causal", "must be true");
    config.num_heads = attention.integer("num_heads", 1);
    config.rotary_emb_dim = attention.integer_or("rotary_emb_dim", 0, 0);
    for (const char* bias : {"bias", "qkv_proj_bias", "out_proj_bias"})
      if (!attention.boolean(bias, true)) attention.refuse(bias, "must be true");
    attention.refuse_others({"causal", "num_heads", "rotary_emb_dim", "bias", "qkv_proj_bias",
                             "out_proj_bias",
                             // of no consequence for the numbers:
                             "use_flash_attn", "fused_bias_fc", "checkpointing", "layer_idx"});
  }
};

}  // namespace ssm
