// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>

#include "families.hpp"
#include "ssm/io/mamba_checkpoint.hpp"
#include "train_options.hpp"

namespace ssm::cli {

/// What the program needs to know of Mamba models to run them.
struct MambaFamily {
  using LanguageModel = MambaLanguageModel;
  using Config = MambaLanguageModelConfig;
  static constexpr ModelFamily kind = ModelFamily::mamba;
  static constexpr bool runs_on_cuda = false;

  static Config read_config(const JsonObject& json) { return read_mamba_config(json); }
  static Config config_of(const TrainingRecipe& recipe, Index vocabulary) {
    return {.d_model = recipe.width,
            .n_layer = recipe.layers,
            .vocab_size = vocabulary,
            .d_inner = recipe.inner > 0 ? recipe.inner : Config::usual_d_inner(recipe.width),
            .d_state = recipe.state > 0 ? recipe.state : 16,
            .dt_rank = Config::usual_dt_rank(recipe.width)};
  }
  static LanguageModel make(const Config& config) { return make_language_model(config); }
  static ModelSizes sizes(const Config& config) {
    return {.vocabulary = config.vocab_size, .logits = padded_vocabulary(config)};
  }
  template <class B>
  static auto load(Context<B>& ctx, const std::filesystem::path& folder) {
    return load_mamba(ctx, folder);
  }
  template <class P>
  static void save(const std::filesystem::path& folder, const Config& config, const P& parameters) {
    save_mamba(folder, config, parameters);
  }
};

/// The same with densely connected hidden states.
struct DenseMambaFamily : MambaFamily {
  using LanguageModel = DenseMambaLanguageModel;
  static constexpr ModelFamily kind = ModelFamily::dense_mamba;
  static constexpr bool runs_on_cuda = false;

  static Config config_of(const TrainingRecipe& recipe, Index vocabulary) {
    Config config = MambaFamily::config_of(recipe, vocabulary);
    config.dense_block_layers = recipe.sources;
    config.h_select_reduction = std::min(recipe.select_reduction, recipe.width);
    config.fusion = dense_fusion(recipe, config.fusion);
    return config;
  }
  static LanguageModel make(const Config& config) { return make_dense_language_model(config); }
  template <class B>
  static auto load(Context<B>& ctx, const std::filesystem::path& folder) {
    return load_dense_mamba(ctx, folder);
  }
};

}  // namespace ssm::cli
