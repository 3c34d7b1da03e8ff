// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "ssm/language_model/model_on.hpp"
#include "ssm/language_model/open.hpp"

// Include this, and the header of a backend, in a program that does not link ssm::language_model.

namespace ssm::detail {

template <class B, class F>
std::unique_ptr<LanguageModelInterface> LanguageModelMaker<B, F>::load(
    const BackendOptions& options, const JsonObject& json, ModelTensors tensors) {
  return std::make_unique<LanguageModelOn<B, F>>(options, json, std::move(tensors));
}
template <class B, class F>
std::unique_ptr<LanguageModelInterface> LanguageModelMaker<B, F>::make(
    const BackendOptions& options, const typename F::Config& config, Seed seed) {
  return std::make_unique<LanguageModelOn<B, F>>(options, config, seed);
}

}  // namespace ssm::detail
