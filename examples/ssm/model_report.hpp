// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/core/error.hpp"  // Index

namespace ssm::cli {

struct TensorReport {
  std::string name;
  std::string dtype;
  std::vector<Index> shape;
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
  std::string file;
};

/// What is in a model's files.
struct ModelReport {
  std::string family;                                       // empty without a config.json
  std::vector<std::pair<std::string, std::string>> config;  // "ssm_cfg.d_state", "64"
  nlohmann::json config_json;
  /// Why the tensors are not those of the config, empty where they are or nothing is known.
  std::string misfit;
  std::vector<TensorReport> tensors;  // layer 2 before layer 10
  std::vector<std::string> files;
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
};

/// Reads the headers of a folder's or a file's tensors, and config.json where there is one.
/// Throws  CheckpointError  if there are none, or a file is damaged
ModelReport model_report(const std::filesystem::path& path);

/// The same of a published model in float, without any file.
/// Throws  ArgumentError  for a name that none has
ModelReport preset_report(std::string_view name);

}  // namespace ssm::cli
