// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "families.hpp"
#include "ssm/io/byte_tokenizer.hpp"
#include "ssm/io/checkpoint_folder.hpp"

namespace ssm::cli {

/// A trained model from disk, with its tokenizer.
class ModelFile {
 public:
  /// Throws  CheckpointError  if there is no whole model, or its vocabulary is not the tokenizer's
  ModelFile(const std::filesystem::path& path, const Machine& machine)
      : folder_(model_folder(path)) {
    const JsonObject config = read_json(folder_ / "config.json");
    const EngineFamily& family = engine_family(config);
    sizes_ = family.sizes(config);
    if (sizes_.vocabulary != tokenizer_.vocabulary())
      throw CheckpointError(folder_.string(), "",
                            "the model has a vocabulary of " + std::to_string(sizes_.vocabulary) +
                                " tokens, bytes have " + std::to_string(tokenizer_.vocabulary()));
    engine_ = family.load(machine, folder_);
  }

  Engine& engine() const { return *engine_; }
  const ByteTokenizer& tokenizer() const { return tokenizer_; }
  const ModelSizes& sizes() const { return sizes_; }

 private:
  std::filesystem::path folder_;
  ModelSizes sizes_;
  ByteTokenizer tokenizer_;
  std::unique_ptr<Engine> engine_;
};

inline constexpr const char* model_help =
    "folder of a training run, or with config.json and model.safetensors or shards of it";

}  // namespace ssm::cli
