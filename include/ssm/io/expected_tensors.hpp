// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/stored_scalar.hpp"  // printable

namespace ssm {

/// Tensors by name, in one file or several: SafetensorsFile, ModelTensors.
template <class S>
concept TensorSource = requires(const S& source, std::string_view name) {
  { source.path_name() } -> std::convertible_to<std::string>;
  { source.names() } -> std::convertible_to<std::vector<std::string>>;
  { source.contains(name) } -> std::convertible_to<bool>;
  { source.shape(name) } -> std::convertible_to<std::vector<Index>>;
  source.require_unchanged_size();
};

/// A tensor that the sizes of a config ask for.
struct ExpectedTensor {
  std::string name;
  std::vector<Index> shape;
  bool may_be_absent = false;  // it repeats another tensor, or follows from the config
};

namespace detail {

inline void require_shape_in(const TensorSource auto& source, const std::string& name,
                             const std::vector<Index>& expected) {
  if (!source.contains(name)) throw CheckpointError(source.path_name(), name, "is missing");
  if (source.shape(name) != expected)
    throw CheckpointError(
        source.path_name(), name,
        "is " + shape_text(source.shape(name)) + ", config.json says " + shape_text(expected));
}

}  // namespace detail

/// Checks a checkpoint against the sizes of its config before memory is allocated for them: a damaged config must not ask for
/// more than the files hold. `for_each` calls what it is given with every ExpectedTensor, in any order.
///   require_tensors(tensors, [&](auto&& visit) { for_each_mamba_tensor(config, visit); });
/// Cost    stops at the first tensor that is not there, so a config of a billion layers costs nothing
/// Throws  CheckpointError  if one is missing, is of another shape, or is not expected
template <TensorSource S, class ForEach>
void require_tensors(const S& source, ForEach&& for_each) {
  std::set<std::string> expected;
  for_each([&](const ExpectedTensor& tensor) {
    if (!tensor.may_be_absent || source.contains(tensor.name))
      detail::require_shape_in(source, tensor.name, tensor.shape);
    expected.insert(tensor.name);
  });
  for (const std::string& name : source.names())
    if (!expected.contains(name))
      throw CheckpointError(source.path_name(), detail::printable(name), "is not expected");
}

}  // namespace ssm
