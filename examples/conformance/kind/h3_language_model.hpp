// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_language_model.hpp"
#include "ssm/io/h3_checkpoint.hpp"

namespace ssm::conformance {

template <class B, class T>
void check_h3_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_h3<T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, H3LanguageModel>(trial, model.layer, model.parameters).run();
}

}  // namespace ssm::conformance
