// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "ssm/io/checkpoint.hpp"
#include "ssm/io/h3_config.hpp"
#include "ssm/model/model.hpp"

namespace ssm {

/// An H3 language model with its weights.
template <class T = float, class Space = HostSpace>
using H3Model = Model<H3LanguageModel::Parameters<T, Space>>;

namespace detail {

inline void require_shape_in(const SafetensorsFile& file, const std::string& name,
                             const std::vector<Index>& expected) {
  if (!file.contains(name)) throw CheckpointError(file.path_name(), name, "is missing");
  if (file.shape(name) != expected)
    throw CheckpointError(
        file.path_name(), name,
        "is " + shape_text(file.shape(name)) + ", config.json says " + shape_text(expected));
}

/// The sizes of a config, before memory is allocated for them: a damaged one must not ask for more than the file holds.
inline void require_sizes_in(const SafetensorsFile& file, const H3LanguageModelConfig& config) {
  const Index multiple = config.pad_vocab_size_multiple;
  const Index padded = (config.vocab_size + multiple - 1) / multiple * multiple;
  const Index width = config.d_model;
  require_shape_in(file, H3Names::embedding.text(), {padded, width});
  if (config.max_position_embeddings > 0)
    require_shape_in(file, H3Names::positions.text(), {config.max_position_embeddings, width});
  for (Index i = 0; i < config.n_layer; ++i) {
    const std::string layer = "backbone.layers." + std::to_string(i) + ".";
    require_shape_in(file, layer + "mlp.fc1.weight", {config.d_inner, width});
    if (std::count(config.attn_layer_idx.begin(), config.attn_layer_idx.end(), i) > 0) {
      require_shape_in(file, layer + "mixer.Wqkv.weight", {3 * width, width});
    } else {
      require_shape_in(file, layer + "mixer.q_proj.weight", {width, width});
      require_shape_in(file, layer + "mixer.ssm_k_kernel.kernel.B", {width, config.d_state});
    }
  }
}

/// Tensors that repeat others or follow from the config may be absent; nothing else may be there.
template <class P>
void require_expected_names(const SafetensorsFile& file, const P& parameters) {
  std::set<std::string> expected{"lm_head.weight"};
  for_each_parameter([&](const ParameterSpec& spec, const auto&) { expected.insert(spec.name); },
                     parameters);
  for (const std::string& name : file.names())
    if (!expected.contains(name) && !name.ends_with(".mixer.rotary_emb.inv_freq"))
      throw CheckpointError(file.path_name(), printable(name), "is not expected");
}

template <class T>
void require_tied_head(const SafetensorsFile& file, const DynamicTensor<T, 2>& embedding) {
  const std::string name = "lm_head.weight";
  if (!file.contains(name)) return;
  DynamicTensor<T, 2> head(embedding.extents());
  file.read(name, head);
  if (!std::equal(head.data(), head.data() + head.size(), embedding.data()))
    throw CheckpointError(file.path_name(), name, "differs from the embedding it is tied to");
}

/// Throws  CheckpointError  naming config.json where sizes do not fit together
inline H3LanguageModel make_language_model_from(const std::filesystem::path& file,
                                                const H3LanguageModelConfig& config) {
  try {
    return make_language_model(config);
  } catch (const ArgumentError& error) {
    throw CheckpointError(file.string(), "", error.what());
  }
}

}  // namespace detail

/// Loads an H3 language model from a folder with config.json and model.safetensors.
///   auto model = ssm::load_h3(ctx, "h3-125m/");
///   auto exact = ssm::load_h3<double>(ctx, "h3-125m/");
/// Throws  CheckpointError  if a file is damaged, a tensor is missing, unexpected or of another size than the config's, or
///         the head is not the embedding
template <class T = float, class B>
H3Model<T, typename B::Space> load_h3(Context<B>& ctx, const std::filesystem::path& folder) {
  static_assert(B::Space::host_readable, "load on the host, then copy to the device");
  const std::filesystem::path config_file = folder / "config.json";
  const H3LanguageModelConfig config = read_h3_config(config_file);
  const SafetensorsFile file(folder / "model.safetensors");
  detail::require_sizes_in(file, config);
  H3LanguageModel layer = detail::make_language_model_from(config_file, config);
  auto parameters = layer.zero_parameters<T>(ctx);
  detail::require_expected_names(file, parameters);
  load_parameters(file, parameters, "", UnexpectedTensors::ignore);
  detail::require_tied_head(file, parameters.embedding);
  return {std::move(layer), std::move(parameters)};
}

/// Saves config.json and model.safetensors into a folder, as the published code names them; the tied head is left out.
/// Throws  CheckpointError
template <class P>
void save_h3(const std::filesystem::path& folder, const H3LanguageModelConfig& config,
             const P& parameters) {
  write_text_file(folder / "config.json", h3_config_json(config).dump(2) + "\n");
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.metadata("format", "pt");
  save_parameters(writer, parameters);
  writer.finish();
}

}  // namespace ssm
