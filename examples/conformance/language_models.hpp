// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "check_language_model.hpp"
#include "kind.hpp"
#include "kind/training.hpp"
#include "ssm/family/families.hpp"
#include "ssm/layer/runs_on.hpp"

namespace ssm::conformance {

/// What a case calls a tensor that the family calls `name`: files of other programs have another
/// word for the embedding, and files of a backbone alone no name before it.
template <class F>
std::string stored_name(const Trial& trial, const std::string& name) {
  using Names = typename F::LanguageModel::TensorNames;
  const auto has = [&](const std::string& stored) { return trial.has("grad/param/" + stored); };
  const std::string backbone = detail::module_prefix(Names::backbone.text());
  if (!has(name) && name.starts_with(backbone) && has(name.substr(backbone.size())))
    return name.substr(backbone.size());
  if (F::other_embedding.empty() || name != Names::embedding.text()) return name;
  const std::string other = backbone + std::string(F::other_embedding);
  return has(other) ? other : name;
}

template <class B, class T, class F>
void check_language_model(Trial& trial) {
  Context<B> ctx;
  const auto model = load_language_model<F, T>(ctx, model_folder_of(trial));
  LanguageModelCheck<B, T, typename F::LanguageModel>(trial, model.layer, model.parameters,
                                                      &stored_name<F>)
      .run();
}

/// "dense_mamba_lm" of the family dense-mamba
template <class F>
std::string kind_of() {
  std::string name(F::name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name + "_lm";
}

template <class B, class T>
const std::vector<Kind>& language_models() {
  static const std::vector<Kind> all = [] {
    std::vector<Kind> list;
    for_each_family([&]<class F>() {
      if constexpr (RunsOn<typename F::LanguageModel, B>)
        list.push_back({kind_of<F>(), &check_language_model<B, T, F>});
    });
    list.push_back({"training", check_training<B, T>});
    return list;
  }();
  return all;
}

}  // namespace ssm::conformance
