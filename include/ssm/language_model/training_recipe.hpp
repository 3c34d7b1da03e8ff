// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "ssm/core/random.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/schedule.hpp"

namespace ssm {

/// What defines a training run beside its model: stored in its checkpoints, and the same when it is
/// resumed.
struct TrainingRecipe {
  std::uint64_t seed = 1;
  Index batch = 16;
  Index length = 128;
  Index accumulation = 1;
  Index carry = 16;
  double rate = 4e-3;
  double ssm_rate = 0;
  std::string schedule = "cosine";
  double warmup = 0.05;
  double rate_end = 0;
  double weight_decay = 0.1;
  bool decay_norms_and_biases = false;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double eps = 1e-8;
  double clip = 1;
  double held_out = 0.1;
  std::string numbers = "float";
  std::string order = "streams";     // or "shuffled"
  std::string documents = "joined";  // or "separate"
  Index end_token = -1;              // that ends a document, where they are separate
};

/// How long it runs, where, and what it reports; may change when it is resumed, and stays as it was
/// where nothing is said.
struct TrainingLimits {
  double minutes = 0;        // 0: bounded by steps
  Index steps = 0;           // 0: bounded by time
  Index evaluate_every = 0;  // steps; 0: ten times in a run
  Index save_every = 0;      // steps; 0: once a minute
  Index log_every = 0;       // steps; 0: 10
  Index keep = 0;            // checkpoints; 0: 2
  std::string backend = {};  // empty: cpu
};

/// visit(name, member, help) for every setting of a recipe: flags, records and comparisons are made
/// from this list.
template <class Recipe, class Visit>
void for_each_setting(Recipe& r, Visit&& visit) {
  visit("seed", r.seed, "of the initial weights, the order of the text and the dropout");
  visit("batch", r.batch, "places of the text that are read at once");
  visit("length", r.length, "tokens in a window: how far gradients reach");
  visit("accumulation", r.accumulation, "batches per update");
  visit("carry", r.carry, "windows through which the state is carried (1 with attention layers)");
  visit("rate", r.rate, "largest learning rate");
  visit("ssm-rate", r.ssm_rate, "learning rate of the SSMs' dynamics (0: at most 0.001)");
  visit("schedule", r.schedule, "constant, linear, polynomial, cosine or cosine_timm");
  visit("warmup", r.warmup, "part of the run in which the rate rises");
  visit("rate-end", r.rate_end, "rate at the end of every schedule but constant");
  visit("weight-decay", r.weight_decay, "of weights; never of the SSMs' dynamics");
  visit("decay-norms-and-biases", r.decay_norms_and_biases, "weight decay of these too");
  visit("beta1", r.beta1, "AdamW's memory of gradients");
  visit("beta2", r.beta2, "AdamW's memory of squared gradients");
  visit("eps", r.eps, "what AdamW adds to the root of squared gradients");
  visit("clip", r.clip, "largest norm of a gradient (0: any)");
  visit("numbers", r.numbers, "of sequences and working weights: float, bf16 or f16");
  visit("held-out", r.held_out, "part at the end of the text that is not trained on");
  visit("order", r.order,
        "streams: places of the text that are read on from window to window; or shuffled: every "
        "window once an epoch, in a random order, with no state carried");
  visit("documents", r.documents,
        "joined: one text; or separate: no document sees another, and the first token of one is "
        "not predicted");
  visit("end-token", r.end_token, "number of the token that ends a document");
}

/// The trainer of a recipe. A model with attention carries no state: its cache would grow with it.
/// Nor does one whose windows are shuffled.
inline LanguageModelTrainerConfig trainer_config(const TrainingRecipe& recipe, bool has_attention) {
  return {
      .batch = recipe.batch,
      .accumulation = recipe.accumulation,
      .carry = has_attention || recipe.order == "shuffled" ? 1 : recipe.carry,
      .seed = Seed{recipe.seed}.fork("dropout"),
      .optimizer = {.rate = recipe.rate,
                    .ssm_rate = recipe.ssm_rate > 0 ? recipe.ssm_rate : std::min(recipe.rate, 1e-3),
                    .beta1 = recipe.beta1,
                    .beta2 = recipe.beta2,
                    .eps = recipe.eps,
                    .weight_decay = recipe.weight_decay,
                    .decay_norms_and_biases = recipe.decay_norms_and_biases,
                    .clip_norm = recipe.clip},
      .document_end = recipe.documents == "separate"
                          ? std::optional(static_cast<Token>(recipe.end_token))
                          : std::nullopt};
}

/// The learning rates of a recipe in a run of so many steps.
/// Throws  ArgumentError  for an unknown schedule
inline Schedule schedule_of(const TrainingRecipe& recipe, Index total) {
  return {.kind = schedule_kind(recipe.schedule),
          .base = recipe.rate,
          .warmup_steps = std::llround(recipe.warmup * static_cast<double>(total)),
          .total_steps = total,
          .end = recipe.rate_end,
          .minimum = recipe.rate_end};
}

}  // namespace ssm
