// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "ssm/core/context.hpp"
#include "ssm/io/checkpoint.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/model_tensors.hpp"
#include "ssm/model/model.hpp"

namespace ssm {
namespace detail {

/// What `make` makes, with the weights of `tensors`, which have been checked against the config.
/// Throws  CheckpointError  naming config.json where sizes do not fit together
template <class T, class B, class Make>
auto load_language_model(Context<B>& ctx, const ModelTensors& tensors,
                         const std::filesystem::path& config_file, Make&& make) {
  static_assert(B::Space::host_readable, "load on the host, then copy to the device");
  const auto layer = [&] {
    try {
      return make();
    } catch (const ArgumentError& error) {
      throw CheckpointError(config_file.string(), "", error.what());
    }
  }();
  auto parameters = layer.template zero_parameters<T>(ctx);
  load_parameters(tensors, parameters, "", UnexpectedTensors::ignore);
  return Model{layer, std::move(parameters)};
}

/// A tied head that is stored all the same must be the embedding.
template <TensorSource S, class T, class Space>
void require_tied_head(const S& tensors, bool has_tied_head, const std::string& name,
                       const DynamicTensor<T, 2, Space>& embedding) {
  if (!has_tied_head || !tensors.contains(name)) return;
  DynamicTensor<T, 2> head(embedding.extents());
  tensors.read(name, head);
  if (!std::equal(head.data(), head.data() + head.size(), embedding.data()))
    throw CheckpointError(tensors.path_name(), name, "differs from the embedding it is tied to");
}

}  // namespace detail

/// Saves config.json and model.safetensors into a folder; a tied head is left out.
/// Throws  CheckpointError
template <class P>
void save_language_model(const std::filesystem::path& folder, const nlohmann::ordered_json& config,
                         const P& parameters) {
  write_text_file(folder / "config.json", config.dump(2) + "\n");
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.metadata("format", "pt");
  save_parameters(writer, parameters);
  writer.finish();
}

}  // namespace ssm
