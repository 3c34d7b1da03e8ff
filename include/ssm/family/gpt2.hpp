// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/family/options.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/model/gpt2_language_model.hpp"

namespace ssm {

/// GPT-2 language models by Hugging Face's names: the Transformer to compare with.
/// Source  huggingface/transformers, GPT2LMHeadModel
struct Gpt2Family {
  using Config = Gpt2LanguageModelConfig;
  using LanguageModel = Gpt2LanguageModel;
  static constexpr std::string_view name = "gpt2";
  static constexpr std::string_view other_embedding = "";

  static LanguageModel make(const Config& config) { return make_language_model(config); }
  static bool has_attention(const Config&) { return true; }
  static bool describes(const JsonObject& json) { return json.text("model_type", "") == "gpt2"; }

  /// Fields that are left out are what transformers takes for them. reorder_and_upcast_attn and
  /// the summary_ fields are of no consequence for the numbers.
  /// Throws  CheckpointError  for a field that is of another type, out of range, or asks for
  ///                          another function
  static Config read(const JsonObject& json) {
    Config config;
    config.n_embd = json.integer_or("n_embd", 768, 1);
    config.n_layer = json.integer_or("n_layer", 12, 1);
    config.n_head = json.integer_or("n_head", 12, 1);
    config.n_positions = json.integer_or("n_positions", 1024, 1);
    if (json.integer_or("n_ctx", config.n_positions, 1) != config.n_positions)
      json.refuse("n_ctx", "must be n_positions, or left out");
    config.n_inner = json.integer_or("n_inner", 4 * config.n_embd, 1);
    if (config.n_inner > JsonObject::largest) json.refuse("n_embd", "is too large");
    const Index rows = json.integer_or("vocab_size", 50257, 1);
    config.vocab_size = json.integer_or(unpadded, rows, 1, rows);
    config.pad_vocab_size_multiple = config.vocab_size == rows ? 1 : rows;
    config.activation = read_activation(json);
    config.has_tied_head = json.boolean("tie_word_embeddings", true);
    config.scale_attn_weights = json.boolean("scale_attn_weights", true);
    config.scale_attn_by_inverse_layer_idx = json.boolean("scale_attn_by_inverse_layer_idx", false);
    json.boolean("reorder_and_upcast_attn", false);
    config.layer_norm_epsilon = json.number("layer_norm_epsilon", 1e-5, 0, 1);
    config.initializer_range = json.number("initializer_range", 0.02, 0, 100);
    config.embd_pdrop = json.number("embd_pdrop", 0.1, 0, 0.999);
    config.resid_pdrop = json.number("resid_pdrop", 0.1, 0, 0.999);
    config.attn_pdrop = json.number("attn_pdrop", 0.1, 0, 0.999);
    for (const char* field : {"add_cross_attention", "is_encoder_decoder"})
      if (json.boolean(field, false)) json.refuse(field, "must be false");
    for (const char* field : {"pruned_heads", "quantization_config"})
      if (json.has(field) && !json.json().at(field).empty()) json.refuse(field, "must be empty");
    return config;
  }

  /// The same fields, readable by transformers and by `read`. To transformers the vocabulary is
  /// what it was padded to; the tokens that may occur are in a field of ours.
  static nlohmann::ordered_json write(const Config& config) {
    const Index rows = config.padded_vocabulary();
    std::string_view activation;
    for (const auto& [word, kind] : activations)
      if (activation.empty() && kind == config.activation) activation = word;
    nlohmann::ordered_json json{
        {"model_type", "gpt2"},
        {"architectures", nlohmann::json::array({"GPT2LMHeadModel"})},
        {"n_embd", config.n_embd},
        {"n_layer", config.n_layer},
        {"n_head", config.n_head},
        {"n_inner", config.n_inner},
        {"n_positions", config.n_positions},
        {"n_ctx", config.n_positions},
        {"vocab_size", rows},
        {"activation_function", activation},
        {"layer_norm_epsilon", config.layer_norm_epsilon},
        {"initializer_range", config.initializer_range},
        {"embd_pdrop", config.embd_pdrop},
        {"resid_pdrop", config.resid_pdrop},
        {"attn_pdrop", config.attn_pdrop},
        {"scale_attn_weights", config.scale_attn_weights},
        {"scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx},
        {"tie_word_embeddings", config.has_tied_head}};
    if (config.vocab_size != rows) json[unpadded] = config.vocab_size;
    return json;
  }

  /// The causal mask and what stood for minus infinity, which old files hold.
  static std::optional<std::vector<Index>> extents_of_constant(const Config& config,
                                                               std::string_view tensor) {
    if (tensor.ends_with(".attn.bias"))
      return std::vector<Index>{1, 1, config.n_positions, config.n_positions};
    if (tensor.ends_with(".attn.masked_bias")) return std::vector<Index>();
    return std::nullopt;
  }

  /// What `ssm train` makes when nothing is said; 0 stands for what follows from the width.
  static Config standard() {
    return {.n_embd = 128,
            .n_layer = 4,
            .n_head = 4,
            .n_inner = 0,
            .n_positions = 1024,
            .vocab_size = 256};
  }
  static void for_each_option(auto& config, auto&& visit) {
    visit("layers", config.n_layer, "blocks of the model");
    visit("width", config.n_embd, "channels of the residual stream");
    visit("inner", config.n_inner, "channels of feed-forward layers (0: four times the width)");
    visit("heads", config.n_head, "heads of attention");
    visit("positions", config.n_positions,
          "learned absolute positions, which no text can be longer than");
    visit("dropout", config.embd_pdrop, "of embeddings");
    visit("residual-dropout", config.resid_pdrop, "of what blocks add");
  }
  static void derive(Config& config, const ModelOptions&) {
    detail::require_at_least_one(config.n_embd, "width");
    detail::require_at_least_one(config.n_layer, "layers");
    detail::require_at_least_one(config.n_positions, "positions");
    detail::require_dropout(config.embd_pdrop, "dropout");
    detail::require_dropout(config.resid_pdrop, "residual-dropout");
    if (config.n_inner == 0) config.n_inner = 4 * config.n_embd;
    if (config.n_head < 1 || config.n_embd % config.n_head != 0)
      throw OptionError("heads", std::to_string(config.n_head) +
                                     " heads do not divide a width of " +
                                     std::to_string(config.n_embd));
  }

 private:
  static constexpr const char* unpadded = "unpadded_vocab_size";  // our own

  /// transformers' words; the first one of a function is written.
  static constexpr std::array<std::pair<std::string_view, ActivationKind>, 9> activations{{
      {"gelu_new", ActivationKind::gelu_tanh},
      {"gelu_pytorch_tanh", ActivationKind::gelu_tanh},
      {"gelu_fast", ActivationKind::gelu_tanh},
      {"gelu", ActivationKind::gelu_erf},
      {"gelu_python", ActivationKind::gelu_erf},
      {"relu", ActivationKind::relu},
      {"silu", ActivationKind::silu},
      {"swish", ActivationKind::silu},
      {"tanh", ActivationKind::tanh},
  }};
  static ActivationKind read_activation(const JsonObject& json) {
    const std::string word = json.text("activation_function", "gelu_new");
    const auto known = std::find_if(activations.begin(), activations.end(),
                                    [&](const auto& entry) { return entry.first == word; });
    if (known == activations.end())
      json.refuse("activation_function",
                  "must be \"gelu_new\", \"gelu\", \"relu\", \"silu\" or \"tanh\"");
    return known->second;
  }
};

}  // namespace ssm
