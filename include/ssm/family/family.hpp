// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/transfer.hpp"
#include "ssm/family/end_tokens.hpp"
#include "ssm/family/options.hpp"
#include "ssm/family/tensor_names.hpp"
#include "ssm/io/checkpoint.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/model_tensors.hpp"
#include "ssm/io/weights.hpp"
#include "ssm/model/model.hpp"

namespace ssm {

/// All that is particular to one family of language models about its files, as static members of
/// one struct:
///   Config, LanguageModel             its sizes, with n_layer among them; the layer that they make
///   name                              "dense-mamba", in settings and messages
///   describes(json)                   whether a config.json is one of this family
///   read(json), write(config)         config.json in and out
///   make(config)                      the layer
///   other_embedding                   another word for the embedding in files of other programs,
///                                     or ""
///   extents_of_constant(config, name) of tensors that may be in files though they follow from the
///                                     config
///   standard(), for_each_option(config, visit), derive(config, given)
///                                     a fresh model by settings
/// and, where a family needs them:
///   has_attention(config)             whether its states grow with the text
///   complete(config, tensors)         what config.json leaves to the tensors
/// `Families` lists them all: everything that has a row for each family is made from that list.
template <class F>
concept LanguageModelFamily = requires(const JsonObject& json, const typename F::Config& config,
                                       std::string_view tensor) {
  { F::describes(json) } -> std::same_as<bool>;
  { F::read(json) } -> std::same_as<typename F::Config>;
  { F::write(config) } -> std::same_as<nlohmann::ordered_json>;
  { F::make(config) } -> std::same_as<typename F::LanguageModel>;
  { F::extents_of_constant(config, tensor) } -> std::same_as<std::optional<std::vector<Index>>>;
  config.n_layer;
};

/// A language model of a family with its weights.
template <LanguageModelFamily F, class T = float, class Space = HostSpace>
using ModelOf = Model<typename F::LanguageModel::template Parameters<T, Space>>;

namespace detail {

template <class F>
bool has_attention(const typename F::Config& config) {
  if constexpr (requires { F::has_attention(config); })
    return F::has_attention(config);
  else
    return false;
}

/// The layer that a config makes.
/// Throws  CheckpointError  naming config.json where its sizes do not fit together
template <class F>
typename F::LanguageModel make_from_file(const typename F::Config& config,
                                         const std::string& config_file) {
  try {
    return F::make(config);
  } catch (const ArgumentError& error) {
    throw CheckpointError(config_file, "", error.what());
  }
}

/// What a folder holds, checked against its config before memory is allocated for it.
template <class F>
struct CheckedFiles {
  typename F::Config config;
  ModelTensors tensors;
  typename F::LanguageModel layer;
};

template <class F>
CheckedFiles<F> check_files(const JsonObject& json, ModelTensors tensors) {
  auto config = F::read(json);
  if constexpr (requires { F::use_current_names(tensors, config); })
    F::use_current_names(tensors, config);
  use_family_names<typename F::LanguageModel::TensorNames>(tensors, F::other_embedding);
  if constexpr (requires { F::complete(config, tensors); }) F::complete(config, tensors);
  const std::size_t count = tensors.names().size();
  if (config.n_layer > static_cast<Index>(count))
    throw CheckpointError(json.file(), "",
                          "says " + std::to_string(config.n_layer) +
                              " layers, but there are only " + std::to_string(count) +
                              " tensors in " + tensors.path_name());
  auto layer = make_from_file<F>(config, json.file());
  const std::string head = F::LanguageModel::TensorNames::head.text();
  try {
    require_tensors_of(layer, tensors, [&](const std::string& name) {
      if (layer.has_tied_head() && name == head)
        return std::optional(std::vector{layer.padded_vocabulary(), layer.channels()});
      return F::extents_of_constant(config, name);
    });
  } catch (const OutOfMemory&) {
    throw CheckpointError(json.file(), "", "asks for more elements than can be counted");
  }
  return {std::move(config), std::move(tensors), std::move(layer)};
}

/// A tied head that is stored all the same must be the embedding.
template <class Names>
void require_tied_head(const ModelTensors& tensors) {
  const std::string head = Names::head.text(), embedding = Names::embedding.text();
  if (!tensors.contains(head) || tensors.are_identical(head, embedding)) return;
  const auto a = tensors.read<double, 2>(head), b = tensors.read<double, 2>(embedding);
  if (!std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size()))
    throw CheckpointError(tensors.path_name(), head, "differs from the embedding it is tied to");
}

template <class T, class F, class Seen>
ModelOf<F, T> read_weights(const CheckedFiles<F>& files, const WeightReading& reading,
                           Seen&& seen) {
  if (files.layer.has_tied_head())
    require_tied_head<typename F::LanguageModel::TensorNames>(files.tensors);
  typename F::LanguageModel::template Parameters<T> parameters;
  ssm::read_weights(files.tensors, files.layer.template zero_parameters<T>(Context<ShapesOnly>()),
                    parameters, reading, seen);
  return Model{files.layer, std::move(parameters)};
}

/// seen as in ssm::read_weights.
template <class T, class F, class B, class Seen = NothingSeen>
ModelOf<F, T, typename B::Space> read_weights(Context<B>& ctx, const CheckedFiles<F>& files,
                                              WeightReading reading = {}, Seen&& seen = {}) {
  if (!B::Space::host_readable) reading.mappings = nullptr;
  auto model = read_weights<T>(files, reading, seen);
  if constexpr (B::Space::host_readable) {
    return model;
  } else {
    auto parameters = copy_to(ctx, model.layer, model.parameters);
    return Model{std::move(model.layer), std::move(parameters)};
  }
}

}  // namespace detail

/// Checks the tensors of a model against a config.json without reading them.
/// Throws  CheckpointError  as load_language_model
template <LanguageModelFamily F>
void require_fit(const JsonObject& json, ModelTensors tensors) {
  detail::check_files<F>(json, std::move(tensors));
}

/// Loads a language model from a folder with config.json and its weights, wherever ModelTensors
/// finds them. Weights are read on the host, in the form they are kept in, and copied to where the
/// context's backend keeps its tensors.
///   auto model = ssm::load_language_model<ssm::MambaFamily>(ctx, "mamba-130m-hf/");
///   auto exact = ssm::load_language_model<ssm::H3Family, double>(ctx, "h3-125m/");
///   auto half = ssm::load_language_model<ssm::MambaFamily>(ctx, "mamba-2.8b/",
///                                                          {.form = WeightForm::bf16});
/// Throws  CheckpointError  if a file is damaged, a tensor is missing, unexpected or of other
///                          extents than the config's, or a head that is said to be the embedding
///                          is not
template <LanguageModelFamily F, class T = float, class B>
ModelOf<F, T, typename B::Space> load_language_model(Context<B>& ctx,
                                                     const std::filesystem::path& folder,
                                                     const WeightReading& reading = {}) {
  const JsonObject json = read_json(folder / "config.json");
  return detail::read_weights<T>(ctx, detail::check_files<F>(json, ModelTensors(folder)), reading);
}

/// Saves config.json and model.safetensors into a folder by the family's names; a tied head is left
/// out.
/// Throws  CheckpointError
template <LanguageModelFamily F, class P>
void save_language_model(const std::filesystem::path& folder, const typename F::Config& config,
                         const P& parameters, const std::vector<Token>& end_tokens = {}) {
  static_assert(P::Space::host_readable, "copy_to the host first, then save");
  write_text_file(folder / "config.json",
                  detail::with_end_tokens(F::write(config), end_tokens).dump(2) + "\n");
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.metadata("format", "pt");
  save_parameters(writer, parameters);
  writer.finish();
}

}  // namespace ssm
