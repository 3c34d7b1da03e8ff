// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/io/language_model_checkpoint.hpp"
#include "ssm/io/retnet_tensors.hpp"
#include "ssm/model/retnet_language_model.hpp"

namespace ssm {

/// A RetNet language model with its weights.
template <class T = float, class Space = HostSpace>
using RetNetModel = Model<RetNetLanguageModel::Parameters<T, Space>>;

/// Loads a RetNet language model by torchscale's names, with or without their "decoder." prefix.
///   auto model = ssm::load_retnet(ctx, "retnet-3b/");
/// Throws  CheckpointError  as load_mamba does
template <class T = float, class B>
RetNetModel<T, typename B::Space> load_retnet(Context<B>& ctx,
                                              const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const RetNetLanguageModelConfig config = read_retnet_config(file);
  ModelTensors tensors(folder);
  use_retnet_names(tensors);
  require_tensors(tensors, [&](auto&& visit) { for_each_retnet_tensor(config, visit); });
  auto model = detail::load_language_model<T>(ctx, tensors, file,
                                              [&] { return make_language_model(config); });
  detail::require_tied_head(tensors, config.has_tied_head, "output_projection.weight",
                            model.parameters.embedding);
  return model;
}

/// Saves config.json and model.safetensors by torchscale's names.
/// Throws  CheckpointError
template <class P>
void save_retnet(const std::filesystem::path& folder, const RetNetLanguageModelConfig& config,
                 const P& parameters) {
  save_language_model(folder, retnet_config_json(config), parameters);
}

}  // namespace ssm
