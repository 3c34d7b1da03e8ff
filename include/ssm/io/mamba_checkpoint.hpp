// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/io/language_model_checkpoint.hpp"
#include "ssm/io/mamba_tensors.hpp"
#include "ssm/model/mamba_language_model.hpp"

namespace ssm {

/// A Mamba language model with its weights.
template <class T = float, class Space = HostSpace>
using MambaModel = Model<MambaLanguageModel::Parameters<T, Space>>;
template <class T = float, class Space = HostSpace>
using DenseMambaModel = Model<DenseMambaLanguageModel::Parameters<T, Space>>;

namespace detail {

template <class T, class B, class Make>
auto load_mamba_as(Context<B>& ctx, const std::filesystem::path& folder, Make&& make) {
  const std::filesystem::path file = folder / "config.json";
  const MambaLanguageModelConfig config = read_mamba_config(file);
  ModelTensors tensors(folder);
  use_mamba_names(tensors);
  require_tensors(tensors, [&](auto&& visit) { for_each_mamba_tensor(config, visit); });
  auto model = load_language_model<T>(ctx, tensors, file, [&] { return make(config); });
  require_tied_head(tensors, config.has_tied_head, "lm_head.weight", model.parameters.embedding);
  return model;
}

}  // namespace detail

/// Loads a Mamba language model from a folder of Hugging Face's or of the published code's: config.json and
/// model.safetensors, or shards with their index.
///   auto model = ssm::load_mamba(ctx, "mamba-130m-hf/");
/// Throws  CheckpointError  if a file is damaged, a tensor is missing, unexpected or of another size than the config's, or a
///         head that is said to be the embedding is not; or if the config is of a dense model
template <class T = float, class B>
MambaModel<T, typename B::Space> load_mamba(Context<B>& ctx, const std::filesystem::path& folder) {
  return detail::load_mamba_as<T>(ctx, folder, [](const MambaLanguageModelConfig& config) {
    return make_language_model(config);
  });
}

/// The same for a dense one, whose config says dense_block_layers and h_select_reduction.
template <class T = float, class B>
DenseMambaModel<T, typename B::Space> load_dense_mamba(Context<B>& ctx,
                                                       const std::filesystem::path& folder) {
  return detail::load_mamba_as<T>(ctx, folder, [](const MambaLanguageModelConfig& config) {
    return make_dense_language_model(config);
  });
}

/// Saves config.json and model.safetensors by Hugging Face's names.
/// Throws  CheckpointError
template <class P>
void save_mamba(const std::filesystem::path& folder, const MambaLanguageModelConfig& config,
                const P& parameters) {
  save_language_model(folder, mamba_config_json(config), parameters);
}

}  // namespace ssm
