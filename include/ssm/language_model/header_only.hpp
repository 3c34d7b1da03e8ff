// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ssm/language_model/model_on.hpp"
#include "ssm/language_model/open.hpp"
#include "ssm/layer/runs_on.hpp"

// Include this, and the header of a backend, in a program that does not link ssm::language_model.

namespace ssm::detail {

template <class B, class F, class T = float, class... Arguments>
std::unique_ptr<LanguageModelInterface> language_model_on(const BackendOptions& options,
                                                          Arguments&&... arguments) {
  if constexpr (RunsOn<typename F::LanguageModel, B, T>)
    return std::make_unique<LanguageModelOn<B, F, T>>(options,
                                                      std::forward<Arguments>(arguments)...);
  else
    throw ArgumentError("models of the family '" + std::string(F::name) + "' do not run on the " +
                        options.backend + " backend");
}

template <class B, class F>
std::unique_ptr<LanguageModelInterface> LanguageModelMaker<B, F>::load(
    const BackendOptions& options, const JsonObject& json, std::vector<Token> end_tokens,
    ModelTensors tensors) {
  if (options.numbers == "float")
    return language_model_on<B, F>(options, json, std::move(end_tokens), std::move(tensors));
  if constexpr (reads_in_half_types<B>)
    if (options.numbers == "bf16")
      return language_model_on<B, F, BFloat16>(options, json, std::move(end_tokens),
                                               std::move(tensors));
  throw ArgumentError("language model: no numbers of type '" + options.numbers + "' on " +
                      options.backend + "; there is " +
                      (reads_in_half_types<B> ? "float, bf16" : "float"));
}
template <class B, class F>
std::unique_ptr<LanguageModelInterface> LanguageModelMaker<B, F>::make(
    const BackendOptions& options, const typename F::Config& config, std::vector<Token> end_tokens,
    Seed seed) {
  return language_model_on<B, F>(options, config, std::move(end_tokens), seed);
}

}  // namespace ssm::detail
