// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "train_options.hpp"

namespace ssm::cli {

struct TrainRequest {
  std::filesystem::path text;
  std::filesystem::path out;
  std::filesystem::path config;  // a config.json in place of the recipe's sizes; empty: none
  bool resume = false;
  bool quiet = false;
  TrainingRecipe recipe;
  TrainingLimits limits;
  std::set<std::string> given;  // flags of the recipe that are on the command line
};

/// Trains to the end of the request, or to SIGINT, SIGTERM or SIGHUP, and leaves a checkpoint either way.
/// Throws  Error  with one sentence; the last checkpoint stays
void train(const TrainRequest& request);

}  // namespace ssm::cli
