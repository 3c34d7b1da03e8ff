// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"  // Index
#include "ssm/layer/dense_fusion.hpp"

namespace ssm::cli {

/// What defines a training run: stored in its checkpoints, and the same when it is resumed.
struct TrainingRecipe {
  std::uint64_t seed = 1;
  std::string backend = "cpu";
  std::string model = "h3";
  Index layers = 4;
  Index width = 128;
  Index inner = 0;  // 0: as usual in the family
  Index state = 0;
  Index head_dim = 1;
  std::vector<Index> attention_layers;
  Index heads = 4;
  Index sources = 2;
  Index select_reduction = 32;
  std::string fusion = "usual";
  double initializer_range = 0;
  Index batch = 16;
  Index length = 128;
  Index accumulation = 1;
  Index carry = 16;
  double rate = 4e-3;
  double ssm_rate = 0;
  std::string schedule = "cosine";
  double warmup = 0.05;
  double weight_decay = 0.1;
  double beta2 = 0.99;
  double clip = 1;
  double dropout = 0;
  double held_out = 0.1;
};

/// How long it runs and what it reports; may change when it is resumed, and stays as it was where nothing is said.
struct TrainingLimits {
  double minutes = 0;        // 0: bounded by steps
  Index steps = 0;           // 0: bounded by time
  Index evaluate_every = 0;  // steps; 0: ten times in a run
  Index save_every = 0;      // steps; 0: once a minute
  Index log_every = 0;       // steps; 0: 10
  Index keep = 0;            // checkpoints; 0: 2
  int threads = 0;
};

/// visit(flag, member, range or choices, help) for every option of a recipe: flags, checkpoints and comparisons are made
/// from this list.
template <class Recipe, class Visit>
void for_each_option(Recipe& r, Visit&& visit) {
  visit("--seed", r.seed, "of the initial weights, the order of the text and the dropout");
  visit("--backend", r.backend,
        "cpu, cuda, cuda-tf32: faster, coarser matrix products; or reference: plain loops, slow");
  visit("--model", r.model, "h3, mamba, retnet, dense-retnet or dense-mamba");
  visit("--layers", r.layers, "blocks of the model");
  visit("--width", r.width, "channels of the residual stream");
  visit("--inner", r.inner,
        "channels inside feed-forward layers, scans and values (0: four times the width for h3, "
        "twice for others)");
  visit("--state", r.state,
        "state size of the SSMs (0: 32 for h3, where it is even, 16 for mamba)");
  visit("--head-dim", r.head_dim, "channels per SSM head of h3");
  visit("--attention-layers", r.attention_layers, "blocks with attention in place of H3, from 0");
  visit("--heads", r.heads, "heads of attention and retention");
  visit("--sources", r.sources, "earlier layers that a layer of a dense model reads, at most 8");
  visit("--select-reduction", r.select_reduction,
        "the gates of dense models go through width / this many channels");
  visit("--fusion", r.fusion,
        "where dense models join earlier layers' states with their own: readout, carried, or usual "
        "in the family, "
        "which is readout for dense-mamba and carried for dense-retnet");
  visit("--initializer-range", r.initializer_range,
        "standard deviation of dense-retnet's first weights (0: 0.8 / square root of the width)");
  visit("--batch", r.batch, "places of the text that are read at once");
  visit("--length", r.length, "tokens in a window: how far gradients reach");
  visit("--accumulation", r.accumulation, "batches per update");
  visit("--carry", r.carry, "windows through which the state is carried (1 with attention layers)");
  visit("--rate", r.rate, "largest learning rate");
  visit("--ssm-rate", r.ssm_rate, "learning rate of the SSMs' dynamics (0: at most 0.001)");
  visit("--schedule", r.schedule, "constant, linear, polynomial or cosine");
  visit("--warmup", r.warmup, "part of the run in which the rate rises");
  visit("--weight-decay", r.weight_decay, "of everything but the SSMs' dynamics");
  visit("--beta2", r.beta2, "AdamW's memory of squared gradients");
  visit("--clip", r.clip, "largest norm of a gradient (0: any)");
  visit("--dropout", r.dropout,
        "of embeddings, and of what the blocks of retnet and dense-retnet add");
  visit("--held-out", r.held_out, "part at the end of the text that is not trained on");
}

inline DenseFusion dense_fusion(const TrainingRecipe& recipe, DenseFusion usual) {
  if (recipe.fusion == "usual") return usual;
  return recipe.fusion == "readout" ? DenseFusion::readout : DenseFusion::carried;
}

}  // namespace ssm::cli
