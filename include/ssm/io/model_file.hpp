// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "ssm/core/transfer.hpp"
#include "ssm/io/checkpoint.hpp"

namespace ssm {

/// Saves the weights of a model, a layer with its parameters, by name as one safetensors file; from
/// any memory.
///   save("digits.safetensors", model);
/// What is not a weight, the sizes and options of the layer, is the program's to know.
/// Throws  CheckpointError  if the file cannot be written, or two parameters have one name
template <class M>
  requires requires(const M& model) {
    model.layer;
    model.parameters;
  }
void save(const std::filesystem::path& path, const M& model) {
  const auto write = [&](const auto& parameters) {
    SafetensorsWriter writer(path);
    writer.metadata("format", "pt");
    save_parameters(writer, parameters);
    writer.finish();
  };
  if constexpr (M::Space::host_readable)
    write(model.parameters);
  else
    write(copy_to(Context<HostMemory>(), model.layer, model.parameters));
}

/// Fills the weights of a model of the same layer from such a file, or from any safetensors file
/// with these names; into any memory.
/// Throws  CheckpointError  if a tensor is missing, is not expected, or has other extents; the
///                          model is as it was then
template <class M>
  requires requires(const M& model) {
    model.layer;
    model.parameters;
  }
void load(const std::filesystem::path& path, M& model) {
  const SafetensorsFile file(path);
  if constexpr (M::Space::host_readable) {
    load_parameters(file, model.parameters);
  } else {
    auto parameters =
        model.layer.template zero_parameters<typename M::Scalar>(Context<HostMemory>());
    load_parameters(file, parameters);
    copy_parameters(parameters, model.parameters);
  }
}

}  // namespace ssm
