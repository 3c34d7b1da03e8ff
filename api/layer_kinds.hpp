// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "layer.hpp"
#include "ssm/io/json_file.hpp"

namespace ssm::api {

/// What every kind of layer is made with.
struct LayerPlace {
  std::string backend;  // "cpu", "reference" or "cuda"
  bool is_double = false;
  int threads = 1;
};

/// A kind of layer by name: what its configuration may say, and how it is made.
/// Throws  ArgumentError, CheckpointError  for what the layer cannot be made with
struct LayerKind {
  std::string_view name;
  std::string_view fields;  // separated by blanks, those that must be there first, then a '|'
  std::unique_ptr<ssm_layer> (*make)(const JsonObject& config, const LayerPlace& place);
};

extern const LayerKind s4d_kind, h3_kind, mamba_kind, mamba2_kind, dense_mamba_kind, retention_kind,
    dense_retnet_kind, attention_kind;

}  // namespace ssm::api
