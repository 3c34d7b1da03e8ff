// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "train_options.hpp"

namespace ssm::cli {

/// What a checkpoint says of the run it is part of, beside the model and the optimizer.
struct TrainingRecord {
  Index step = 0;
  double seconds = 0;  // of training so far
  Index text_bytes = 0;
  std::string text_digest;
  TrainingRecipe recipe;
  TrainingLimits limits;  // but for the threads, which belong to the machine
};

/// trainer.json. Throws  CheckpointError
void write_record(const std::filesystem::path& path, const TrainingRecord& record);
TrainingRecord read_record(const std::filesystem::path& path);

/// Tells texts apart: 16 hexadecimal digits (FNV-1a).
std::string digest_of(std::string_view text);

}  // namespace ssm::cli
