// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/family/end_tokens.hpp"
#include "ssm/family/families.hpp"
#include "ssm/family/presets.hpp"
#include "ssm/io/checkpoint_folder.hpp"  // model_folder
#include "ssm/language_model.hpp"

namespace ssm {
namespace detail {

/// Makes language models of family F on backend B. Declared here and defined in header_only.hpp, so
/// that each can be compiled in a program part of its own.
/// Throws  ArgumentError  where the family does not run on the backend
template <class B, class F>
struct LanguageModelMaker {
  static std::unique_ptr<LanguageModelInterface> load(const BackendOptions& options,
                                                      const JsonObject& json,
                                                      std::vector<Token> end_tokens,
                                                      ModelTensors tensors);
  static std::unique_ptr<LanguageModelInterface> make(const BackendOptions& options,
                                                      const typename F::Config& config,
                                                      std::vector<Token> end_tokens, Seed seed);
};

}  // namespace detail

/// Opens a language model of any family of a list on backend B, which `options.backend` need not
/// name. This program part instantiates every family of the list (some 15 seconds of compilation
/// each, optimized): name just those that are wanted, or link ssm::language_model, which has them
/// all compiled, and call open_language_model.
///   #include <ssm/backend/cpu.hpp>
///   #include <ssm/language_model/header_only.hpp>
///   auto model =
///       ssm::open_language_model_on<ssm::Cpu, ssm::TypeList<ssm::MambaFamily>>("mamba-130m-hf/");
/// Throws  as open_language_model
template <class B, class List = Families>
AnyLanguageModel open_language_model_on(const std::filesystem::path& path,
                                        const BackendOptions& options = {}) {
  return AnyLanguageModel(open_newest(path, [&](const std::filesystem::path& folder) {
    const JsonObject json = read_json(folder / "config.json");
    std::unique_ptr<detail::LanguageModelInterface> model;
    with_family<List>(json, [&]<class F>() {
      model = detail::LanguageModelMaker<B, F>::load(
          options, json, detail::end_tokens_in(folder, json), ModelTensors(folder));
    });
    return model;
  }));
}

/// A fresh language model of any family of a list on backend B.
/// Throws  as fresh_language_model
template <class B, class List = Families>
AnyLanguageModel fresh_language_model_on(const FreshLanguageModel& fresh,
                                         const BackendOptions& options = {}) {
  std::unique_ptr<detail::LanguageModelInterface> model;
  std::vector<Token> end_tokens = fresh.end_tokens;
  const auto make = [&]<class F>(const typename F::Config& config) {
    model = detail::LanguageModelMaker<B, F>::make(options, config, end_tokens, fresh.seed);
  };
  if (!fresh.preset.empty()) {
    if (!fresh.options.empty() || !fresh.config.empty())
      throw OptionError("preset", "says all sizes: neither others nor a config go with it");
    bool is_known = false;
    with_preset(fresh.preset, [&]<class F>(const typename F::Config& config) {
      for_each_family(List(), [&]<class Known>() {
        if constexpr (std::is_same_v<Known, F>) {
          is_known = true;
          make.template operator()<F>(config);
        }
      });
    });
    if (!is_known) throw ArgumentError("the family of " + fresh.preset + " is not in the list");
  } else if (fresh.config.empty()) {
    with_family<List>(fresh.family, [&]<class F>() {
      auto config = F::standard();
      config.vocab_size = fresh.vocabulary;
      make.template operator()<F>(with_options<F>(std::move(config), fresh.options));
    });
  } else {
    if (!fresh.options.empty())
      throw OptionError(fresh.options.begin()->first,
                        "cannot be given beside a config, which says all sizes");
    const JsonObject json = read_json(fresh.config);
    if (end_tokens.empty()) end_tokens = detail::end_tokens_of(json);
    with_family<List>(json, [&]<class F>() {
      try {
        make.template operator()<F>(F::read(json));
      } catch (const ArgumentError& error) {
        throw CheckpointError(json.file(), "", error.what());
      }
    });
  }
  return AnyLanguageModel(std::move(model));
}

}  // namespace ssm
