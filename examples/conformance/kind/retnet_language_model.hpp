// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_language_model.hpp"
#include "ssm/io/dense_retnet_checkpoint.hpp"
#include "ssm/io/retnet_checkpoint.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_retnet_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_retnet<T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, RetNetLanguageModel>(trial, model.layer, model.parameters).run();
}

template <class B, class T>
void check_dense_retnet_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_dense_retnet<T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, DenseRetNetLanguageModel>(trial, model.layer, model.parameters).run();
}

}  // namespace ssm::conformance
