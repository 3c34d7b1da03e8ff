// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/checkpoint.hpp"
#include "ssm/laws/named_tensor.hpp"

namespace ssm::laws {

/// Any layer's parameters with their axes forgotten: what a checkpoint sees of a layer is names and
/// elements, and the compiler need not see every layer's tensors in the file code.
template <class T>
struct FlatParameters : ParametersOf<FlatParameters<T>, T, HostSpace> {
  std::vector<std::string> names;
  std::vector<DynamicTensor<T, 1>> tensors;

  explicit FlatParameters(const Bundle& from) {
    for (const NamedTensor& tensor : from) {
      names.push_back(tensor.name);
      tensors.emplace_back(static_cast<Index>(tensor.values.size()));
      write(tensor, tensors.back());
    }
  }
  Bundle read_back(Bundle like) const {
    for (std::size_t i = 0; i < like.size(); ++i) like[i].values = read("", tensors[i]).values;
    return like;
  }
  static void for_each_parameter(auto&& visit, auto& p) {
    for (std::size_t i = 0; i < p.names.size(); ++i)
      visit(ParameterSpec{.name = p.names[i]}, p.tensors[i]);
  }
};

/// What a file of T holds after these tensors have been written to it.
template <class T>
Bundle through_checkpoint_of(const Bundle& tensors) {
  FlatParameters<T> parameters(tensors);
  const auto path = std::filesystem::temp_directory_path() /
                    ("ssm_layer_laws_" + std::to_string(std::random_device()()) + ".safetensors");
  SafetensorsWriter writer(path);
  save_parameters(writer, parameters, "layer.");
  writer.finish();
  for (auto& tensor : parameters.tensors) fill(tensor, 0);
  load_parameters(SafetensorsFile(path), parameters, "layer.");
  std::filesystem::remove(path);
  return parameters.read_back(tensors);
}
inline Bundle through_checkpoint(const Bundle& tensors, std::string_view scalar) {
  return scalar == scalar_name<double>() ? through_checkpoint_of<double>(tensors)
                                         : through_checkpoint_of<float>(tensors);
}

}  // namespace ssm::laws
