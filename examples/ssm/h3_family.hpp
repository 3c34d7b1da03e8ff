// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "families.hpp"
#include "ssm/io/h3_checkpoint.hpp"

namespace ssm::cli {

/// What the program needs to know of H3 models to run them.
struct H3Family {
  using LanguageModel = H3LanguageModel;
  using Config = H3LanguageModelConfig;
  static constexpr ModelFamily kind = ModelFamily::h3;
  static constexpr bool runs_on_cuda = true;

  static Config read_config(const JsonObject& json) { return read_h3_config(json); }
  static Config config_of(const TrainingRecipe& recipe, Index vocabulary) {
    return {.d_model = recipe.width,
            .n_layer = recipe.layers,
            .d_inner = recipe.inner > 0 ? recipe.inner : 4 * recipe.width,
            .vocab_size = vocabulary,
            .d_state = recipe.state > 0 ? recipe.state : 32,
            .head_dim = recipe.head_dim,
            .attn_layer_idx = recipe.attention_layers,
            .num_heads = recipe.heads,
            .embed_dropout = recipe.dropout};
  }
  static LanguageModel make(const Config& config) { return make_language_model(config); }
  static ModelSizes sizes(const Config& config) {
    const Index multiple = config.pad_vocab_size_multiple;
    return {.vocabulary = config.vocab_size,
            .logits = (config.vocab_size + multiple - 1) / multiple * multiple,
            .positions = config.max_position_embeddings,
            .has_attention = !config.attn_layer_idx.empty()};
  }
  template <class B>
  static auto load(Context<B>& ctx, const std::filesystem::path& folder) {
    return load_h3(ctx, folder);
  }
  template <class P>
  static void save(const std::filesystem::path& folder, const Config& config, const P& parameters) {
    save_h3(folder, config, parameters);
  }
};

}  // namespace ssm::cli
