// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"  // Index

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

}  // namespace ssm
