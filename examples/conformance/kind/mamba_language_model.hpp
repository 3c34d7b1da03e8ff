// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_language_model.hpp"
#include "ssm/io/mamba_checkpoint.hpp"

namespace ssm::conformance {

/// The published code has another name for the embedding than Hugging Face.
inline std::string stored_mamba_name(const Trial& trial, const std::string& name) {
  const std::string original = "backbone.embedding.weight";
  const bool is_original = trial.has("grad/param/" + original);
  return is_original && name == "backbone.embeddings.weight" ? original : name;
}

template <class B, class T>
void check_mamba_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_mamba<T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, MambaLanguageModel>(trial, model.layer, model.parameters,
                                               &stored_mamba_name)
      .run();
}

template <class B, class T>
void check_dense_mamba_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_dense_mamba<T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, DenseMambaLanguageModel>(trial, model.layer, model.parameters).run();
}

}  // namespace ssm::conformance
