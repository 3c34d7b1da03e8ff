// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine.hpp"
#include "ssm/io/byte_tokenizer.hpp"
#include "ssm/io/checkpoint_folder.hpp"
#include "ssm/io/h3_config.hpp"

namespace ssm::cli {

/// A trained model from disk, with its tokenizer.
class ModelFile {
 public:
  /// Throws  CheckpointError  if there is no whole model, or its vocabulary is not the tokenizer's
  ModelFile(const std::filesystem::path& path, const Machine& machine)
      : folder_(model_folder(path)), config_(read_h3_config(folder_ / "config.json")) {
    if (config_.vocab_size != tokenizer_.vocabulary())
      throw CheckpointError(folder_.string(), "",
                            "the model has a vocabulary of " + std::to_string(config_.vocab_size) +
                                " tokens, bytes have " + std::to_string(tokenizer_.vocabulary()));
    engine_ = load_engine(machine, folder_);
  }

  Engine& engine() const { return *engine_; }
  const ByteTokenizer& tokenizer() const { return tokenizer_; }
  const H3LanguageModelConfig& config() const { return config_; }

 private:
  std::filesystem::path folder_;
  H3LanguageModelConfig config_;
  ByteTokenizer tokenizer_;
  std::unique_ptr<Engine> engine_;
};

inline constexpr const char* model_help =
    "folder of a training run, of a checkpoint, or with config.json and model.safetensors";

}  // namespace ssm::cli
