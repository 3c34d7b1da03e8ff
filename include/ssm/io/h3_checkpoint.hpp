// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/io/h3_tensors.hpp"
#include "ssm/io/language_model_checkpoint.hpp"

namespace ssm {

/// An H3 language model with its weights.
template <class T = float, class Space = HostSpace>
using H3Model = Model<H3LanguageModel::Parameters<T, Space>>;

/// Loads an H3 language model from a folder with config.json and model.safetensors, or shards with their index.
///   auto model = ssm::load_h3(ctx, "h3-125m/");
///   auto exact = ssm::load_h3<double>(ctx, "h3-125m/");
/// Throws  CheckpointError  if a file is damaged, a tensor is missing, unexpected or of another size than the config's, or
///         the head is not the embedding
template <class T = float, class B>
H3Model<T, typename B::Space> load_h3(Context<B>& ctx, const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const H3LanguageModelConfig config = read_h3_config(file);
  const ModelTensors tensors(folder);
  require_tensors(tensors, [&](auto&& visit) { for_each_h3_tensor(config, visit); });
  auto model = detail::load_language_model<T>(ctx, tensors, file,
                                              [&] { return make_language_model(config); });
  detail::require_tied_head(tensors, true, "lm_head.weight", model.parameters.embedding);
  return model;
}

/// Saves config.json and model.safetensors into a folder, as the published code names them; the tied head is left out.
/// Throws  CheckpointError
template <class P>
void save_h3(const std::filesystem::path& folder, const H3LanguageModelConfig& config,
             const P& parameters) {
  save_language_model(folder, h3_config_json(config), parameters);
}

}  // namespace ssm
