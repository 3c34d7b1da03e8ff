// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/io/dense_retnet_tensors.hpp"
#include "ssm/io/language_model_checkpoint.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"

namespace ssm {

/// A DenseRetNet language model with its weights.
template <class T = float, class Space = HostSpace>
using DenseRetNetModel = Model<DenseRetNetLanguageModel::Parameters<T, Space>>;

/// Loads a DenseRetNet language model by the names of the published code, whatever modules hold the decoder.
///   auto model = ssm::load_dense_retnet(ctx, "dense-retnet-350m/");
/// Throws  CheckpointError  as load_mamba does
template <class T = float, class B>
DenseRetNetModel<T, typename B::Space> load_dense_retnet(Context<B>& ctx,
                                                         const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  DenseRetNetLanguageModelConfig config = read_dense_retnet_config(file);
  ModelTensors tensors(folder);
  use_dense_retnet_names(tensors);
  use_gate_widths(tensors, config);
  require_tensors(tensors, [&](auto&& visit) { for_each_dense_retnet_tensor(config, visit); });
  auto model = detail::load_language_model<T>(ctx, tensors, file,
                                              [&] { return make_language_model(config); });
  detail::require_tied_head(tensors, config.has_tied_head, "lm_head.weight",
                            model.parameters.embedding);
  return model;
}

/// Saves config.json and model.safetensors by the names of the published code.
/// Throws  CheckpointError
template <class P>
void save_dense_retnet(const std::filesystem::path& folder,
                       const DenseRetNetLanguageModelConfig& config, const P& parameters) {
  save_language_model(folder, dense_retnet_config_json(config), parameters);
}

}  // namespace ssm
