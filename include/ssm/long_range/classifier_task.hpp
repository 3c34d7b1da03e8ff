// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "ssm/long_range/files.hpp"
#include "ssm/long_range/list_ops.hpp"
#include "ssm/long_range/pathfinder.hpp"
#include "ssm/model/sequence_classifier.hpp"

namespace ssm {

/// What defines how a classifier is trained.
struct ClassifierRecipe {
  SequenceClassifierConfig model{};
  Index batch = 50;
  double rate = 0.01;
  double ssm_rate = 0.001;  // of step sizes, decays and frequencies
  double weight_decay = 0.05;
  double warmup = 0.02;  // part of the run; then the rate falls by a cosine
  double clip = 1;       // of the gradient's norm; 0: none
  std::uint64_t seed = 0;
};

/// A task of the Long Range Arena with the published settings of S4D. Where those have a norm over
/// the batch ours has LayerNorm.
struct LongRangeTask {
  std::string_view name;
  std::string_view about;
  ClassifierRecipe recipe;
  bool reads_tokens;   // else numbers, gray values from −1 to 1
  bool has_generator;  // else it needs files
  Index length;        // of the longest sequences
  Index training;      // published numbers of sequences
  Index test;
  Index steps;           // published
  double chance;         // accuracy of guessing
  double published_s4d;  // accuracy, Fu et al. 2023 (H3), appendix
  double published_h3;
};

/// Source  state-spaces/s4, configs/experiment/lra/old/v3-*.yaml, of December 2022
inline constexpr std::array<LongRangeTask, 6> long_range_tasks{{
    {.name = "listops",
     .about = "the value of nested operations on digits",
     .recipe = {.model = {.classes = 10, .d_model = 128, .n_layer = 8, .norm = NormPlace::after}},
     .reads_tokens = true,
     .has_generator = true,
     .length = 2048,
     .training = 96000,
     .test = 2000,
     .steps = 80000,
     .chance = 0.1,
     .published_s4d = 0.583,
     .published_h3 = 0.575},
    {.name = "imdb",
     .about = "whether a review is positive, from its bytes",
     .recipe = {.model = {.classes = 2, .d_model = 256, .n_layer = 6}, .batch = 16},
     .reads_tokens = true,
     .has_generator = false,
     .length = 4096,
     .training = 25000,
     .test = 25000,
     .steps = 50000,
     .chance = 0.5,
     .published_s4d = 0.873,
     .published_h3 = 0.882},
    {.name = "retrieval",
     .about = "whether of two papers one cites the other",
     .recipe = {.model = {.classes = 2, .d_model = 256, .n_layer = 6}, .batch = 64},
     .reads_tokens = true,
     .has_generator = false,
     .length = 8001,
     .training = 147086,
     .test = 17437,
     .steps = 50000,
     .chance = 0.5,
     .published_s4d = 0.907,
     .published_h3 = 0.910},
    {.name = "image",
     .about = "what an image of 32 × 32 gray pixels shows",
     .recipe = {.model = {.classes = 10,
                          .d_model = 512,
                          .n_layer = 6,
                          .n_ssm = 2,
                          .norm = NormPlace::after,
                          .dropout = 0.1}},
     .reads_tokens = false,
     .has_generator = false,
     .length = 1024,
     .training = 50000,
     .test = 10000,
     .steps = 180000,
     .chance = 0.1,
     .published_s4d = 0.875,
     .published_h3 = 0.873},
    {.name = "pathfinder",
     .about = "whether two discs lie on one dashed curve, 32 × 32 pixels",
     .recipe = {.model = {.classes = 2, .d_model = 256, .n_layer = 6},
                .batch = 64,
                .rate = 0.004,
                .weight_decay = 0.03},
     .reads_tokens = false,
     .has_generator = true,
     .length = 1024,
     .training = 160000,
     .test = 20000,
     .steps = 500000,
     .chance = 0.5,
     .published_s4d = 0.936,
     .published_h3 = 0.930},
    {.name = "pathx",
     .about = "the same in 128 × 128 pixels",
     .recipe = {.model = {.classes = 2, .d_model = 256, .n_layer = 6, .dt_min = 0.0001},
                .batch = 16,
                .rate = 0.001,
                .ssm_rate = 0.0005},
     .reads_tokens = false,
     .has_generator = true,
     .length = 16384,
     .training = 160000,
     .test = 20000,
     .steps = 500000,
     .chance = 0.5,
     .published_s4d = 0.923,
     .published_h3 = 0.918},
}};

/// Throws  ArgumentError  for an unknown name
inline const LongRangeTask& long_range_task(std::string_view name) {
  for (const LongRangeTask& task : long_range_tasks)
    if (task.name == name) return task;
  throw ArgumentError(message({"long range: no task is named '", name, "'"}));
}

/// The published files of a task in a folder; `read_image` reads those of Pathfinder (`read_png`).
/// Throws  CheckpointError
inline ClassificationData read_long_range(const LongRangeTask& task,
                                          const std::filesystem::path& folder,
                                          const ReadImage& read_image = refuse_images) {
  if (task.name == "listops") return read_list_ops(folder);
  if (task.name == "imdb") return read_reviews(folder);
  if (task.name == "retrieval") return read_document_pairs(folder);
  if (task.name == "image") return read_cifar(folder);
  return read_pathfinder(folder, task.name == "pathx" ? 128 : 32, read_image);
}

/// Sequences of our own generators. `list_ops` says what those of ListOps are like.
/// Throws  ArgumentError  for a task that has none
inline ClassificationData generate_long_range(const LongRangeTask& task, Seed seed, Index training,
                                              Index test, const ListOps& list_ops = {}) {
  if (task.name == "listops") return list_ops.data(seed, training, test);
  if (task.name == "pathfinder") return Pathfinder{}.data(seed, training, test);
  if (task.name == "pathx") return Pathfinder::path_x().data(seed, training, test);
  throw ArgumentError(message({"long range: ", task.name, " needs its published files"}));
}

}  // namespace ssm
