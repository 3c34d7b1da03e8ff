// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine.hpp"
#include "ssm/io/model_family.hpp"
#include "train_options.hpp"

namespace ssm::cli {

/// What a command needs to know of a model before it is loaded.
struct ModelSizes {
  Index vocabulary = 0;  // tokens that may occur
  Index logits = 0;      // of a position: the vocabulary, padded
  Index positions = 0;   // learned ones, beyond which there are none; 0: no limit
  bool has_attention = false;
};

/// A family of models that the program runs.
struct EngineFamily {
  ModelFamily kind;
  ModelSizes (*sizes)(const JsonObject& config);
  std::unique_ptr<Engine> (*load)(const Machine& machine, const std::filesystem::path& folder);
  /// A fresh model of the recipe's sizes, or of a config's.
  std::unique_ptr<Engine> (*make)(const Machine& machine, const TrainingRecipe& recipe,
                                  Index vocabulary, Seed seed);
  std::unique_ptr<Engine> (*make_from)(const Machine& machine, const JsonObject& config, Seed seed);
};

/// The family of the model that a config.json describes.
/// Throws  CheckpointError  if it is one that the program does not run
const EngineFamily& engine_family(const JsonObject& config);
/// The family of that name, "dense-mamba" for example.
/// Throws  ArgumentError  for a name that none has
const EngineFamily& engine_family(std::string_view name);
/// The names of all families.
std::vector<std::string> family_names();

}  // namespace ssm::cli
